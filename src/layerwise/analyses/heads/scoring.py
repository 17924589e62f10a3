"""Attention of heads on repeated tokens, and their part in the logit of the right next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.analyses.shared.decompose.decoder import LogitSums, direct, read_differences
from layerwise.analyses.shared.decompose.seq2seq import decompose_stack
from layerwise.errors import UserError
from layerwise.ground.layer_names import DECODER
from layerwise.models import original_tokenizer
from layerwise.models.instance.kinds import (
    DecoderOnly,
    Model,
    by_kind,
    decoder_prefix,
    hook_name,
    is_seq2seq,
    n_encoder_layers,
    n_layer_heads,
)
from layerwise.models.libraries.untrusted_tokenizer import try_texts
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.load import surrounding_tokens
from layerwise.sweep.activations.sites import CrossSites, StackSites
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.readout import uncapped_logits

SHORTEST = 2


class RepeatedSequence(NamedTuple):
    """Different tokens: those that are repeated, and others that an encoder reads meanwhile."""

    once: Tokens
    others: Tokens = ()


@dataclass(frozen=True)
class RepeatedTokens:
    """Tokens around a text (before, after, a decoder's first), and those that are drawn from."""

    before: Tokens
    after: Tokens
    begins: Tokens
    known: Tokens
    seq2seq: bool
    n_ctx: int

    @classmethod
    def for_model(cls, model: Model) -> RepeatedTokens:
        """Those of a model."""
        tokenizer, two = original_tokenizer(model), is_seq2seq(model)
        size = min(len(tokenizer), model.cfg.d_vocab)
        known = tuple(sorted(set(range(size)) - set(tokenizer.all_special_ids)))
        before, after = tuple(tokenizer("").input_ids), ()
        if two:
            before, after = _tokenizer_affixes(tokenizer, known)
        return cls(before, after, decoder_prefix(model), known, two, model.cfg.n_ctx)

    @property
    def longest(self) -> int:
        """The longest sequence that can be repeated within the context, of different tokens."""
        around = max(len(self.before) + len(self.after), len(self.begins))
        return min((self.n_ctx - around) // 2, len(self.known) // self._kinds)

    @property
    def _kinds(self) -> int:
        """Number of times as many different tokens as are repeated."""
        return 2 if self.seq2seq else 1

    def refuse(self, length: int) -> None:
        """Accept only lengths that the model can be given."""
        if not SHORTEST <= length <= self.longest:
            others = ", and as many others for the encoder," if self.seq2seq else ""
            raise UserError(
                f"Sequences of {length} different tokens{others} were asked for; expected "
                f"{SHORTEST} to {self.longest}: the model takes {self.n_ctx:,}, in which they are "
                f"repeated, and its vocabulary has {len(self.known):,}."
            )

    def draw_sequences(self, count: int, length: int, seed: int) -> list[RepeatedSequence]:
        """So many sequences."""
        rng, sequences = stats.generator(seed, "head scores"), []
        for _ in range(count):
            tokens = rng.choice(self.known, self._kinds * length, replace=False).tolist()
            sequences.append(RepeatedSequence(tuple(tokens[:length]), tuple(tokens[length:])))
        return sequences

    def as_prompt(self, *texts: Tokens) -> Tokens:
        """Some tokens as a prompt, in an encoder-decoder as the encoder's."""
        return (*self.before, *(token for text in texts for token in text), *self.after)


def _tokenizer_affixes(tokenizer: Any, known: Tokens) -> tuple[Tokens, Tokens]:
    """Tokens that a tokenizer puts before and after the input of an encoder."""
    for token in known:
        text = tokenizer.decode([token])
        try_texts(tokenizer, text)
        plain, whole = (
            tuple(tokenizer(text, add_special_tokens=special).input_ids)
            for special in (False, True)
        )
        specials = surrounding_tokens(plain, whole)
        if specials is not None:
            return specials
    raise UserError(
        "The tokenizer adds no special tokens in a fixed place around a text: expected one that "
        "keeps the text's own tokens together; use another tokenizer."
    )


_ADDED = ("attn_out", "z", "cross_attn_out", "cross_z", "mlp_out")
_PATTERNS = {"z": "pattern", "cross_z": "cross_pattern"}
# By score: the positions that attend, and for each of them the one that is attended to.
Places = dict[str, tuple[Int[torch.Tensor, " n"], Int[torch.Tensor, " n"]]]


class HeadScores(NamedTuple):
    """Scores of heads at ``z`` or ``cross_z`` on one sequence, from a first layer on."""

    site: str
    first: int
    scores: dict[str, Float[np.ndarray, "layer head"]]


@torch.inference_mode()
def head_scores_of_sequence(
    model: Model, given: RepeatedTokens, drawn: RepeatedSequence
) -> list[HeadScores]:
    """The scores of every head on one sequence, by kind of attention, each in a run of its own."""
    # Read at the repeated tokens but the last, whose successor is not given; ``docs/heads.md``.
    once, length = drawn.once, len(drawn.once)
    before, begins = len(given.before), len(given.begins)
    n_encoder, layers = n_encoder_layers(model), range(model.cfg.n_layers)
    if not n_encoder:
        repeated = repeated_places(before, length, both_ways=False)
        return [_score_site(model, "z", layers, repeated, [given.as_prompt(once, once)], once)]
    encoder, decoder = layers[:n_encoder], layers[n_encoder:]
    return [
        _score_site(model, "z", encoder, repeated_places(before, length, both_ways=True),
                [given.as_prompt(once, once), given.begins]),
        _score_site(model, "z", decoder, repeated_places(begins, length, both_ways=False),
                [given.as_prompt(drawn.others), (*given.begins, *once, *once)], once),
        _score_site(model, "cross_z", decoder, copied_places(begins, before, length),
                [given.as_prompt(once), (*given.begins, *once)], once),
    ]  # fmt: skip


def _score_site(
    model: Model,
    site: str,
    layers: range,
    places: Places,
    inputs: Sequence[Tokens],
    among: Tokens = (),
) -> HeadScores:
    """The scores at a site in one run; ``induction`` if the next token is compared with some."""
    shape = len(layers), n_layer_heads(model, layers[0])
    scores = {name: np.zeros(shape) for name in places}
    queries, _ = places["prefix_matching"]
    rows = {hook_name(model, layer, _PATTERNS[site]): row for row, layer in enumerate(layers)}
    last = hook_name(model, layers[-1], "resid_post")
    kept: dict[str, torch.Tensor] = {}

    def average_pattern(pattern: Float[torch.Tensor, "1 head query key"], hook: Any) -> None:
        for name, (at, to) in places.items():
            scores[name][rows[hook.name]] = pattern[0, :, at, to].double().mean(-1).cpu().numpy()

    def keep(tensor: torch.Tensor, hook: Any) -> None:
        kept[hook.name] = tensor[0, queries]

    def stack_layers(at: str) -> torch.Tensor:
        return torch.stack([kept[hook_name(model, layer, at)] for layer in layers])

    def decoder_parts(model: DecoderOnly, reading: LogitSums) -> dict[str, torch.Tensor]:
        z, final = stack_layers("z"), kept[last]
        zeros = final.new_zeros(len(layers), *final.shape)  # sublayers are not taken apart
        return direct(model, StackSites(zeros[0], z, zeros, zeros, final), reading).own

    def seq2seq_parts(model: Seq2SeqModel, reading: LogitSums) -> dict[str, torch.Tensor]:
        attn_out, z, cross_out, cross_z, mlp_out = map(stack_layers, _ADDED)
        own = StackSites(kept[f"{DECODER}.hook_embed"], z, attn_out, mlp_out, kept[last])
        cross = CrossSites(cross_z, cross_out)
        return decompose_stack(model.parts.decoder, own, reading.direction, cross)[0]

    hooks: list[Any] = [(name, average_pattern) for name in rows]
    two_stacks = n_encoder_layers(model) > 0
    if among:
        sites = _ADDED if two_stacks else ("z",)
        ends = [last, f"{DECODER}.hook_embed"] if two_stacks else [last]
        names = [*ends, *(hook_name(model, layer, at) for layer in layers for at in sites)]
        hooks += [(name, keep) for name in names]
    read = [torch.tensor([list(tokens)], device=model.W_E.device) for tokens in inputs]
    # A decoder-only model's own logits are not needed.
    stop: dict[str, Any] = {} if two_stacks else {"stop_at_layer": len(layers)}
    model.run_with_hooks(*read, fwd_hooks=hooks, **stop)
    if among:
        # the logit of the right next token at each position, less the mean over some tokens
        logits = uncapped_logits(model, kept[last]).double()
        weights = torch.zeros_like(logits)
        weights[:, list(among)] = 1 / len(among)
        right = read[-1][0, queries + 1]
        reading = read_differences(model, logits, right, weights[:, None])
        added = by_kind(
            model, lambda m: decoder_parts(m, reading), lambda m: seq2seq_parts(m, reading)
        )
        scores["induction"] = added[site][:, 0].mean(0).cpu().numpy()
    return HeadScores(site, layers[0], scores)


def repeated_places(first: int, length: int, *, both_ways: bool) -> Places:
    """Places of self-attention that are scored, on tokens that are given twice in a row."""
    again = torch.arange(first + length, first + 2 * length - 1)
    every = torch.arange(first, first + 2 * length)
    back = torch.full_like(again, -length)
    if both_ways:
        again, back = torch.cat([again, again - length]), torch.cat([back, -back])
    places = {
        "prefix_matching": (again, again + back + 1),
        "duplicate_token": (again, again + back),
        "previous_token": (every[1:], every[:-1]),
    }
    return places | ({"next_token": (every[:-1], every[1:])} if both_ways else {})


def copied_places(first: int, read_first: int, length: int) -> Places:
    """Places of cross-attention that are scored, where the decoder reads the encoder's text."""
    at = torch.arange(length - 1)
    return {
        "prefix_matching": (first + at, read_first + at + 1),
        "duplicate_token": (first + at, read_first + at),
    }
