"""Every site of every family: what an edit there changes, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layerwise.models.seq2seq import Seq2SeqModel
from tests.models.activations import activations
from tests.models.seq2seq.tiny import tiny_seq2seq

FAMILIES = ("t5", "flan-t5", "mt5", "bart", "mbart", "marian", "pegasus")
BLOCK_SITES = (
    "hook_resid_pre", "attn.hook_k", "attn.hook_v", "attn.hook_q", "attn.hook_attn_scores",
    "attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_out",
    "hook_resid_post",
)  # fmt: skip
CROSS_SITES = (
    *(f"cross_attn.{name}" for name in ("hook_k", "hook_v", "hook_q", "hook_attn_scores",
                                        "hook_pattern", "hook_z")),
    "hook_cross_attn_out", "hook_resid_mid_cross",
)  # fmt: skip
TOKENS = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(5))
SAID = torch.randint(3, 300, (2, 4), generator=torch.Generator().manual_seed(6))


def _run(model: Seq2SeqModel, name: str | None = None, edit: Any = None) -> dict[str, torch.Tensor]:
    return activations(model, TOKENS, SAID, name=name, edit=edit)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_sites_are_there(family: str) -> None:
    model, cfg = tiny_seq2seq(family), tiny_seq2seq(family).cfg
    expected = {
        *(f"encoder.blocks.{n}.{s}" for n in range(cfg.n_encoder_layers) for s in BLOCK_SITES),
        *(
            f"decoder.blocks.{n}.{s}"
            for n in range(cfg.n_decoder_layers)
            for s in (*BLOCK_SITES, *CROSS_SITES)
        ),
        *(f"{stack}.{name}" for stack in ("encoder", "decoder")
          for name in ("hook_embed", "hook_final")),
        "hook_logits",
    }  # fmt: skip
    assert set(model.hook_dict) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_changes_what_comes_behind_it_and_nothing_else(family: str) -> None:
    model = tiny_seq2seq(family)
    clean = _run(model)
    order = list(clean)
    assert set(order) == set(model.hook_dict)
    for place, name in enumerate(order):

        def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:
            # Scores are shifted key by key: a constant would fall out of the softmax.
            return value + 0.5 * torch.sin(torch.arange(value.numel())).reshape(value.shape)

        edited = _run(model, name, edit)
        changed = [other for other in order if not torch.equal(edited[other], clean[other])]
        assert changed, name
        assert order.index(changed[0]) == place, name
        assert "hook_logits" in changed, name
        block = name.rsplit(".", 1)[0].removesuffix(".attn").removesuffix(".cross_attn")
        if ".blocks." in name:
            assert f"{block}.hook_resid_post" in changed, name


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_that_changes_nothing_changes_nothing(family: str) -> None:
    model = tiny_seq2seq(family)
    clean = _run(model)
    for name in clean:
        edited = _run(model, name, lambda value, hook: value.clone())
        assert torch.equal(edited["hook_logits"], clean["hook_logits"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_cannot_look_ahead(family: str) -> None:
    model = tiny_seq2seq(family)
    clean = _run(model)["hook_logits"]

    def last(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        value[:, -1] += 1
        return value

    edited = _run(model, "decoder.blocks.0.hook_resid_pre", last)["hook_logits"]
    assert torch.equal(edited[:, :-1], clean[:, :-1])
    assert not torch.allclose(edited[:, -1], clean[:, -1])


@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers_add_up_to_the_stream(family: str) -> None:
    model = tiny_seq2seq(family)
    found, post_norm = _run(model), model.cfg.post_norm
    for stack in ("encoder", "decoder"):
        for number, block in enumerate(getattr(model, stack).blocks):
            parts, sites = block.parts, f"{stack}.blocks.{number}.hook_"
            steps = [("resid_pre", "attn_out", "resid_mid", parts.attn_norm)]
            if stack == "decoder":
                steps.append(("resid_mid", "cross_attn_out", "resid_mid_cross", parts.cross_norm))
            last = steps[-1][2]
            steps.append((last, "mlp_out", "resid_post", parts.mlp_norm))
            for before, adds, after, norm in steps:
                total = found[sites + before] + found[sites + adds]
                assert torch.equal(norm(total) if post_norm else total, found[sites + after])
