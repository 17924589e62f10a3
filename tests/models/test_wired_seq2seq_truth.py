"""What is said to be true of the wired encoder-decoder, against plain forwards with hooks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.truth import PlantedSeq2Seq, spared
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.tasks import Item, Task
from tests.planted import CAPABILITIES, small_task
from tests.planted_seq2seq import answers_of, seq2seq_layouts, small_seq2seq, tokens_of

LAYOUT = WiredSeq2SeqLayout()
N_ENCODER = LAYOUT.n_encoder_layers
# Rounding in a rotated basis, in nats and in shares of a logit difference.
ROUNDING = 1e-5
anywhere = settings(max_examples=3, deadline=None, phases=(Phase.explicit, Phase.generate))
seeds = st.integers(0, 1000)
SITES = {
    "attn_out": "hook_attn_out",
    "cross_attn_out": "hook_cross_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "cross_z": "cross_attn.hook_z",
}


class Asked:
    """A suite that is asked with hooks, again and again."""

    @torch.inference_mode()
    def __init__(self, model: Seq2SeqModel, task: Task) -> None:
        self.model = model
        self.tokens, self.answers = tokens_of(model, task), answers_of(model, task)
        self.intact = self._logprob([])
        assert self.intact.exp().min() > 0.99

    @torch.inference_mode()
    def lost(self, hooks: list) -> torch.Tensor:
        """Nats of the answers' log-probability that hooks take away, by item."""
        return self.intact - self._logprob(hooks)

    def _logprob(self, hooks: list) -> torch.Tensor:
        logits = self.model.run_with_hooks(self.tokens, fwd_hooks=hooks)[:, -1]
        return logits.log_softmax(-1).gather(1, self.answers)[:, 0]


def check(lost: torch.Tensor, needed: bool, idle: bool) -> None:
    """What is needed is lost wholly, what is idle changes no bit."""
    if needed:
        assert lost.min() > 1
    else:
        assert lost.abs().max() <= (0 if idle else ROUNDING)


def skipped(model: Seq2SeqModel, layer: int) -> list:
    """Hooks that hand ``resid_pre`` on as ``resid_post``."""
    kept = {}

    def keep(value, hook):
        kept["resid"] = value

    def hand_on(value, hook):
        return kept["resid"]

    return [
        (model.hook_name(layer, "hook_resid_pre"), keep),
        (model.hook_name(layer, "hook_resid_post"), hand_on),
    ]


def zeroed(model: Seq2SeqModel, layer: int, site: str, head: int | None = None) -> list:
    def zero(value, hook):
        changed = value.clone()
        changed[:, :, slice(None) if head is None else head] = 0
        return changed

    return [(model.hook_name(layer, SITES[site]), zero)]


def layers_with(layout: WiredSeq2SeqLayout, site: str) -> range:
    return range(layout.n_encoder_layers if "cross" in site else 0, layout.n_layers)


@anywhere
@given(seq2seq_layouts(), seeds)
def test_exactly_the_planted_layers_are_needed(layout, seed):
    model, idle = small_seq2seq(layout, seed), set(spared(layout, *CAPABILITIES))
    assert idle == set(range(layout.n_layers)) - set(
        map(layout.layer_of, ("previous", "look_up", "second_hop", "facts", "begin", "copy", "say"))
    )
    for capability in CAPABILITIES:
        truth, asked = PlantedSeq2Seq(layout, capability), Asked(model, small_task(capability, 6))
        for layer in range(layout.n_layers):
            found = asked.lost(skipped(model, layer))
            check(found, layer in truth.critical("layer"), layer in idle)
        for site in ("attn_out", "cross_attn_out", "mlp_out"):
            for layer in layers_with(layout, site):
                found = asked.lost(zeroed(model, layer, site))
                check(found, layer in truth.critical(site), layer in idle)


@anywhere
@given(seq2seq_layouts(), seeds)
def test_exactly_the_planted_heads_are_needed(layout, seed):
    model = small_seq2seq(layout, seed)
    planted = {getattr(layout, name) for name in ("previous", "look_up", "facts", "second_hop")}
    in_use = {"z": planted | {layout.begin}, "cross_z": {layout.copy}}
    for capability in CAPABILITIES:
        truth, asked = PlantedSeq2Seq(layout, capability), Asked(model, small_task(capability, 6))
        for site, used in in_use.items():
            for layer in layers_with(layout, site):
                for head in range(model.cfg.heads_of(layer)):
                    spot = Spot(layer, head)
                    found = asked.lost(zeroed(model, layer, site, head))
                    check(found, spot in truth.critical_heads(site), spot not in used)


def test_overwritten_streams_and_other_prompts_leave_what_truth_says():
    truth = PlantedSeq2Seq(LAYOUT, "reasoning")
    assert truth.critical("resid_post") == set(range(LAYOUT.n_layers))
    assert truth.critical("resid_mid_cross") == set(range(N_ENCODER, LAYOUT.n_layers))
    asked = Asked(small_seq2seq(LAYOUT), small_task("reasoning", 6))
    _, cache = asked.model.run_with_cache(asked.tokens.roll(1, 0))
    hooks = {"resid_post": "hook_resid_post", "resid_pre": "hook_resid_pre", **SITES}
    for site, name in hooks.items():
        for layer in layers_with(LAYOUT, site):
            full = asked.model.hook_name(layer, name)
            lost = asked.lost([(full, lambda value, hook, other=cache[full]: other)])
            base = {"z": "attn_out", "cross_z": "cross_attn_out"}.get(site, site)
            if layer in truth.critical(base, "resample"):
                assert lost.mean() > 1  # two prompts may have one answer
            else:
                assert lost.abs().max() <= ROUNDING


class Pair:
    """A prompt, one that asks about another word, and what patches bring back."""

    @torch.inference_mode()
    def __init__(self, model: Seq2SeqModel, item: Item) -> None:
        assert model.tokenizer is not None
        assert item.corruption is not None
        one, self.other = (
            model.to_tokens(f"{item.context} {question}")
            for question in (item.question, item.corruption.question)
        )
        self.model = model
        self.ids = model.tokenizer.convert_tokens_to_ids([item.answer, item.corruption.answer])
        clean, self.cache = model.run_with_cache(one)
        self.clean, self.worst = self._apart(clean), self._apart(model(self.other))

    @torch.inference_mode()
    def recovered(self, name: str, *place: slice | int) -> float:
        """The share of the difference of two logits, by a patch at a place of a hook."""
        where = (slice(None), *place)

        def patch(value, hook):
            changed = value.clone()
            changed[where] = self.cache[name][where]
            return changed

        patched = self.model.run_with_hooks(self.other, fwd_hooks=[(name, patch)])
        return (self._apart(patched) - self.worst) / (self.clean - self.worst)

    def _apart(self, logits: torch.Tensor) -> float:
        return float(logits[0, -1, self.ids[0]] - logits[0, -1, self.ids[1]])


RESID = {"resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid"}
RESID |= {"resid_mid_cross": "hook_resid_mid_cross", "resid_post": "hook_resid_post"}
OUT = {name: SITES[name] for name in ("attn_out", "cross_attn_out", "mlp_out")}


@anywhere
@given(seq2seq_layouts(), seeds, st.sampled_from(CAPABILITIES))
def test_patches_recover_at_the_planted_layers_and_positions(layout, seed, capability):
    model, truth = small_seq2seq(layout, seed), PlantedSeq2Seq(layout, capability)
    pair = Pair(model, small_task(capability).items[0])
    for site, name in (RESID | OUT).items():
        for layer in layers_with(layout, site):
            places = {"asked": -2, "end": -1} if layer < layout.n_encoder_layers else {"begin": 0}
            for where, position in places.items():
                found = pair.recovered(model.hook_name(layer, name), position)
                assert found == pytest.approx(truth.recovers(site, layer, where), abs=ROUNDING)


@anywhere
@given(seq2seq_layouts(), seeds, st.sampled_from(CAPABILITIES))
def test_patches_recover_at_the_planted_heads_and_values(layout, seed, capability):
    model, truth = small_seq2seq(layout, seed), PlantedSeq2Seq(layout, capability)
    pair = Pair(model, small_task(capability).items[1])
    for layer in range(layout.n_layers):
        for site in ("z", "cross_z")[: 1 + (layer >= layout.n_encoder_layers)]:
            name = model.hook_name(layer, SITES[site])
            for head in range(model.cfg.heads_of(layer)):
                found = pair.recovered(name, -1, head)
                expected = truth.recovers_by_head(site, Spot(layer, head))
                assert found == pytest.approx(expected, abs=ROUNDING)
    for layer in range(layout.n_encoder_layers, layout.n_layers):
        for what in ("k", "v"):
            name = model.hook_name(layer, f"cross_attn.hook_{what}")
            found = pair.recovered(name)
            assert found == pytest.approx(truth.recovers_by_memory(what, layer), abs=ROUNDING)


@anywhere
@given(seq2seq_layouts(), seeds)
@torch.inference_mode()
def test_lenses_read_the_answer_from_the_planted_layer_on(layout, seed):
    """In the decoder by its unembedding, in the encoder by a decoder that reads less of it."""
    model = small_seq2seq(layout, seed)
    for capability in CAPABILITIES:
        truth, task = PlantedSeq2Seq(layout, capability), small_task(capability, 6)
        tokens, answers = tokens_of(model, task), answers_of(model, task)
        begin = torch.tensor([model.prefix] * len(tokens))
        _, cache = model.run_with_cache(tokens)
        for layer in range(layout.n_layers):
            resid = cache[model.hook_name(layer, "hook_resid_post")]
            in_encoder = layer < layout.n_encoder_layers
            logits = model.decode(begin, resid) if in_encoder else model.unembed(resid)
            right = logits[:, -1].argmax(-1) == answers[:, 0]
            expected = layer >= (truth.found_at if in_encoder else truth.readable_from)
            assert (right == expected).all()
