"""Every site of models over their own modules: what an edit there changes, and what it leaves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from layerwise.models.decoder.load import refuse_wrong_sites
from tests.cases import few_by_day
from tests.models.decoder.tiny import CASES, tiny_decoder
from tests.models.refusal import expect_refusal
from tests.models.seq2seq.tiny import tiny_seq2seq

BLOCK_SITES = (
    "hook_resid_pre", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z",
    "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post",
)  # fmt: skip
ROTATED, PLAIN = ("attn.hook_rot_q", "attn.hook_rot_k"), ("attn.hook_q", "attn.hook_k")
CROSS_SITES = (
    *(f"cross_attn.hook_{name}" for name in ("k", "v", "q", "attn_scores", "pattern", "z")),
    "hook_cross_attn_out", "hook_resid_mid_cross",
)  # fmt: skip
TOKENS = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(5))
SAID = torch.randint(3, 300, (2, 4), generator=torch.Generator().manual_seed(6))
TABLES = ("biogpt", "gpt-2", "gpt-2, by layer", "gpt-bigcode", "gpt-neo", "opt", "xglm")
TWO_STACKS = ("t5", "flan-t5", "mt5", "bart", "mbart", "marian", "pegasus")
EVERY = [*CASES, *TWO_STACKS]
# Of those that stand for what a layer may have, the ones whose sites are others.
FAMILIES = few_by_day(
    EVERY, "gemma 2", "cohere 2", "qwen 3 moe", "gpt-2, by layer", "gpt-oss", "t5", "mbart"
)


def case_model(case: str) -> Any:
    return tiny_seq2seq(case) if case in TWO_STACKS else tiny_decoder(case)


@torch.inference_mode()
def record_hooks(model: Any, name: str | None = None, edit: Any = None) -> dict[str, torch.Tensor]:
    """Record every hook point, in order of computation; one may be edited."""
    given = (TOKENS, SAID) if hasattr(model, "encoder") else (TOKENS,)
    found: dict[str, torch.Tensor] = {}

    def keep(value: torch.Tensor, hook: Any) -> None:
        found[hook.name] = value.clone()

    hooks: list[Any] = [] if name is None else [(name, edit)]
    hooks += [(point, keep) for point in model.hook_dict]
    model.run_with_hooks(*given, fwd_hooks=hooks)
    return found


def expected_hooks(case: str, model: Any) -> set[str]:
    if case in TWO_STACKS:
        blocks = {
            f"{stack}.blocks.{layer}.{site}"
            for stack in ("encoder", "decoder")
            for layer in range(len(getattr(model, stack).blocks))
            for site in (*BLOCK_SITES, *PLAIN, *(CROSS_SITES if stack == "decoder" else ()))
        }
        ends = {f"{stack}.hook_{at}" for stack in ("encoder", "decoder")
                for at in ("embed", "final")}  # fmt: skip
        return blocks | ends | {"hook_logits"}
    there = [s for s in BLOCK_SITES if s != "hook_resid_mid" or not model.cfg.parallel_attn_mlp]
    blocks = {f"blocks.{layer}.{site}" for layer in range(4) for site in (*there, *ROTATED)}
    added = {"hook_pos_embed"} if case in TABLES else set()
    return blocks | {"hook_embed", "hook_logits"} | added


@pytest.mark.parametrize("case", EVERY)
def test_all_sites_are_there(case: str) -> None:
    model = case_model(case)
    assert set(model.hook_dict) == expected_hooks(case, model)


@pytest.mark.long(but=["gpt-2, by layer", "gpt-oss", "t5"])
@pytest.mark.parametrize("case", FAMILIES)
def test_an_edit_changes_what_comes_behind_it_and_nothing_else(case: str) -> None:
    model = case_model(case)
    clean = record_hooks(model)
    order = list(clean)
    assert set(order) == set(model.hook_dict)
    for place, name in enumerate(order):
        same = record_hooks(model, name, lambda value, hook: value.clone())
        assert torch.equal(same["hook_logits"], clean["hook_logits"])

        def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:
            # Scores are shifted key by key: a constant would fall out of the softmax.
            return value + 0.5 * torch.sin(torch.arange(value.numel())).reshape(value.shape)

        edited = record_hooks(model, name, edit)
        changed = [other for other in order if not torch.equal(edited[other], clean[other])]
        assert order.index(changed[0]) == place, name
        assert "hook_logits" in changed, name
        stack, blocks, site = name.partition("blocks.")
        if blocks:
            assert f"{stack}blocks.{site.split('.')[0]}.hook_resid_post" in changed, name


@pytest.mark.parametrize("case", FAMILIES)
def test_no_token_looks_ahead(case: str) -> None:
    model = case_model(case)
    clean = record_hooks(model)["hook_logits"]

    def last(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        value[:, -1] += torch.sin(torch.arange(value.shape[-1]))
        return value

    stack = "decoder." if case in TWO_STACKS else ""
    edited = record_hooks(model, f"{stack}blocks.0.hook_resid_pre", last)["hook_logits"]
    if getattr(model.cfg, "experts_per_token", None) is None:
        assert torch.equal(edited[:, :-1], clean[:, :-1])
    # How many tokens go to an expert at once decides how their sums are rounded.
    assert (edited[:, :-1] - clean[:, :-1]).abs().max() < 1e-5
    assert (edited[:, -1] - clean[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_heads_and_sublayers_of_a_decoder_add_up_to_the_stream(case: str) -> None:
    """Of norms behind attention, heads to what enters these."""
    model = tiny_decoder(case)
    found = record_hooks(model)
    for layer, block in enumerate(model.blocks):
        site = f"blocks.{layer}.hook_"
        middle = found[site + "resid_pre"] + found[site + "attn_out"]
        if not model.cfg.parallel_attn_mlp:
            assert torch.equal(middle, found[site + "resid_mid"])
        assert torch.equal(middle + found[site + "mlp_out"], found[site + "resid_post"])
        z = found[f"blocks.{layer}.attn.hook_z"]
        written = torch.einsum("bphd,hdm->bpm", z, block.attn.W_O) + block.attn.b_O
        after = block.parts.attn_after
        written = written if after is None else after(written)
        torch.testing.assert_close(written, found[site + "attn_out"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", TWO_STACKS)
def test_sublayers_of_two_stacks_add_up_to_the_stream(case: str) -> None:
    model = tiny_seq2seq(case)
    found, post_norm = record_hooks(model), model.cfg.post_norm
    for stack in ("encoder", "decoder"):
        for number, block in enumerate(getattr(model, stack).blocks):
            parts, sites = block.parts, f"{stack}.blocks.{number}.hook_"
            steps = [("resid_pre", "attn_out", "resid_mid", parts.attn_norm)]
            if stack == "decoder":
                steps.append(("resid_mid", "cross_attn_out", "resid_mid_cross", parts.cross_norm))
            steps.append((steps[-1][2], "mlp_out", "resid_post", parts.mlp_norm))
            for before, adds, after, norm in steps:
                total = found[sites + before] + found[sites + adds]
                assert torch.equal(norm(total) if post_norm else total, found[sites + after])


def test_the_trial_of_an_unknown_family_passes_what_is_right() -> None:
    for case in ("gemma 3", "phi"):
        refuse_wrong_sites(tiny_decoder(case))


def _deaf(block: Any) -> Any:
    """The forward of a block that does not hear what its MLP says."""

    def forward(resid: torch.Tensor, positions: torch.Tensor, past: Any = None) -> torch.Tensor:
        parts, resid = block.parts, block.hook_resid_pre(resid)
        z = block.attn(parts.attn_input(resid), positions, past)
        middle = block.hook_resid_mid(resid + block.hook_attn_out(parts.attn_output(z.flatten(-2))))
        block.hook_mlp_out(parts.mlp_output(parts.mlp_input(middle)))
        return block.hook_resid_post(middle)

    return forward


def test_the_trial_refuses_a_site_whose_edit_is_not_heard() -> None:
    model = copy.deepcopy(tiny_decoder("olmo 2"))
    model.blocks[3].forward = _deaf(model.blocks[3])
    with expect_refusal("at blocks.3.hook_mlp_out, an edit there does not change"):
        refuse_wrong_sites(model)
