"""Random tokens that are given twice, what stands around them, and how well the next is known.

This module decides whether they can be scored; ``heads`` scores them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from layerwise import stats
from layerwise.analyses.shared.decompose import LogitSums, read_differences
from layerwise.analyses.shared.decompose_seq2seq import taken_apart
from layerwise.errors import UserError
from layerwise.ground.layer_names import DECODER
from layerwise.models import original_tokenizer
from layerwise.models.huggingface.untrusted_tokenizer import try_texts
from layerwise.models.instance.kinds import Model, decoder_prefix, hook_name, is_seq2seq
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.load import around
from layerwise.sweep.activations.last_sites import StackSites
from layerwise.sweep.requests import Tokens
from layerwise.sweep.seq2seq.sites import CrossSites
from layerwise.sweep.walk.readout import uncapped_logits_of

SHORTEST = 2
_ADDED = ("attn_out", "z", "cross_attn_out", "cross_z", "mlp_out")
_HEADS = {"z": "attn_out heads", "cross_z": "cross_attn_out heads"}
Scores = Float[np.ndarray, "layer head"]
Places = dict[str, tuple[Int[torch.Tensor, " n"], Int[torch.Tensor, " n"]]]


@dataclass(frozen=True)
class RepeatedSequence:
    """The tokens of one sequence, all different.

    Attributes:
        once: what is repeated.
        others: as many others, which an encoder reads while the decoder is given what is
            repeated; none for a decoder-only model.
    """

    once: Tokens
    others: Tokens = ()


@dataclass(frozen=True)
class RepeatedTokens:
    """What a model can be given.

    Attributes:
        before: what the tokenizer puts before every text.
        after: what it puts after the input of an encoder.
        begins: the tokens that a decoder of its own begins with.
        known: the tokens that are drawn: all but special ones.
        seq2seq: whether the model is an encoder-decoder.
        n_ctx: the longest input, in tokens.
    """

    before: Tokens
    after: Tokens
    begins: Tokens
    known: Tokens
    seq2seq: bool
    n_ctx: int

    @classmethod
    def of(cls, model: Model) -> RepeatedTokens:
        """Those of a model."""
        tokenizer, two = original_tokenizer(model), is_seq2seq(model)
        size = min(len(tokenizer), model.cfg.d_vocab)
        known = tuple(sorted(set(range(size)) - set(tokenizer.all_special_ids)))
        before, after = tuple(tokenizer("").input_ids), ()
        if two:
            before, after = _around(tokenizer, known)
        return cls(before, after, decoder_prefix(model), known, two, model.cfg.n_ctx)

    @property
    def longest(self) -> int:
        """The longest sequence that can be repeated within the context, of different tokens."""
        room = self.n_ctx - self._around
        return min(room // 2, len(self.known) // self._kinds)

    @property
    def _around(self) -> int:
        """How many tokens stand beside those that are repeated."""
        return max(len(self.before) + len(self.after), len(self.begins))

    @property
    def _kinds(self) -> int:
        """How many times as many different tokens as are repeated."""
        return 2 if self.seq2seq else 1

    def refuse(self, length: int) -> None:
        """Accept only lengths that the model can be given."""
        if length < SHORTEST:
            raise UserError(
                f"Sequences of length {length} were asked for; expected at least {SHORTEST} "
                "tokens to repeat, so ask for more."
            )
        needed = self._around + 2 * length
        if needed > self.n_ctx:
            raise UserError(
                f"Sequences of {length} tokens need {needed} when they are repeated, but the "
                f"model takes {self.n_ctx}; choose a length of {self.longest} at most."
            )
        if len(self.known) < self._kinds * length:
            others = ", and as many others for the encoder," if self.seq2seq else ""
            raise UserError(
                f"Sequences of {length} different tokens{others} were asked for, but the "
                f"vocabulary has {len(self.known)}; choose a length of {self.longest} at most."
            )

    def drawn(self, count: int, length: int, seed: int) -> list[RepeatedSequence]:
        """So many sequences."""
        rng, sequences = stats.generator(seed, "head scores"), []
        for _ in range(count):
            tokens = rng.choice(self.known, self._kinds * length, replace=False).tolist()
            sequences.append(RepeatedSequence(tuple(tokens[:length]), tuple(tokens[length:])))
        return sequences

    def read(self, *texts: Tokens) -> Tokens:
        """Some tokens as a prompt, in an encoder-decoder as the encoder's."""
        return (*self.before, *(token for text in texts for token in text), *self.after)


def _around(tokenizer: Any, known: Tokens) -> tuple[Tokens, Tokens]:
    """What a tokenizer puts before and after the input of an encoder."""
    for token in known:
        text = tokenizer.decode([token])
        try_texts(tokenizer, text)
        plain, whole = (
            tuple(tokenizer(text, add_special_tokens=special).input_ids)
            for special in (False, True)
        )
        specials = around(plain, whole)
        if specials is not None:
            return specials
    raise UserError(
        "The tokenizer adds no special tokens in a fixed place around a text: expected one that "
        "keeps the text's own tokens together; use another tokenizer."
    )


def next_tokens_read(
    model: Model,
    final: Float[torch.Tensor, "query d_model"],
    right: Int[torch.Tensor, " query"],
    among: Sequence[int],
) -> LogitSums:
    """The logit of the right next token at each position, less the mean over some tokens."""
    logits = uncapped_logits_of(model, final).double()
    weights = torch.zeros_like(logits)
    weights[:, list(among)] = 1 / len(among)
    return read_differences(model, logits, right, weights[:, None])


class DecoderSums:
    """What is added up in a decoder that reads an encoder, at some positions of one run.

    ``hooks`` take it from the run.
    """

    def __init__(self, model: Seq2SeqModel, queries: Int[torch.Tensor, " query"]) -> None:
        self._model, self._queries = model, queries
        self._kept: dict[str, torch.Tensor] = {}

    @property
    def _layers(self) -> range:
        return range(self._model.cfg.n_encoder_layers, self._model.cfg.n_layers)

    @property
    def _ends(self) -> tuple[str, str]:
        """The hooks of what enters the first layer, and of what leaves the last."""
        return f"{DECODER}.hook_embed", hook_name(self._model, self._layers[-1], "resid_post")

    def hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """The hooks that keep it."""

        def keep(tensor: torch.Tensor, hook: Any) -> None:
            self._kept[hook.name] = tensor[0, self._queries]

        added = [hook_name(self._model, layer, at) for layer in self._layers for at in _ADDED]
        return [(name, keep) for name in (*self._ends, *added)]

    def heads_add(
        self, site: str, right: Int[torch.Tensor, " query"], among: Sequence[int]
    ) -> Float[np.ndarray, "layer head"]:
        """What each head adds directly to ``next_tokens_read``, a mean over the positions, nats."""
        first, last = (self._kept[name] for name in self._ends)
        by_site = {
            at: torch.stack(
                [self._kept[hook_name(self._model, layer, at)] for layer in self._layers]
            )
            for at in _ADDED
        }
        own = StackSites(first, by_site["z"], by_site["attn_out"], by_site["mlp_out"], last)
        cross = CrossSites(by_site["cross_z"], by_site["cross_attn_out"])
        reading = next_tokens_read(self._model, last, right, among)
        _, contributions = taken_apart(self._model.parts.decoder, own, reading.direction, cross)
        return contributions[_HEADS[site]][:, 0].mean(0).cpu().numpy()


"""By score: the positions that attend, and for each of them the one that is attended to."""


@dataclass(frozen=True)
class Scored:
    """The scores of one kind of attention on one sequence.

    Attributes:
        site: ``z`` for self-attention, ``cross_z`` for cross-attention.
        first: its first layer, in the order of computation.
        scores: by name, a row per layer from the first on and a column per head.
    """

    site: str
    first: int
    scores: dict[str, Scores]


def places_when_repeated(first: int, length: int, *, both_ways: bool) -> Places:
    """What is scored of self-attention on tokens that are given twice in a row."""
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


def places_when_copied(first: int, read_first: int, length: int) -> Places:
    """What is scored of cross-attention where the decoder is given what the encoder reads."""
    at = torch.arange(length - 1)
    return {
        "prefix_matching": (first + at, read_first + at + 1),
        "duplicate_token": (first + at, read_first + at),
    }


def attention_hook(places: Places, scores: dict[str, Scores], row: int) -> Callable[..., None]:
    """A hook on a pattern that puts each head's mean attention into a row of ``found``."""

    def attended(pattern: Float[torch.Tensor, "1 head query key"], hook: Any) -> None:
        for name, (at, to) in places.items():
            scores[name][row] = pattern[0, :, at, to].double().mean(-1).cpu().numpy()

    return attended


def no_scores(places: Places, n_layers: int, n_heads: int) -> dict[str, Scores]:
    """Room for the scores of some layers."""
    return {name: np.zeros((n_layers, n_heads)) for name in places}


@torch.inference_mode()
def seq2seq_scores(
    model: Seq2SeqModel, given: RepeatedTokens, drawn: RepeatedSequence
) -> tuple[Scored, Scored, Scored]:
    """The scores of every head of an encoder-decoder on one sequence, by three runs."""
    cfg, once, length = model.cfg, drawn.once, len(drawn.once)
    before, begins = len(given.before), len(given.begins)
    encoder, decoder = range(cfg.n_encoder_layers), range(cfg.n_encoder_layers, cfg.n_layers)

    def scored(
        site: str, layers: range, places: Places, encoded_tokens: Tokens, decoded: Sequence[int]
    ) -> Scored:
        scores = no_scores(places, len(layers), cfg.heads_of(layers[0]))
        pattern = {"z": "pattern", "cross_z": "cross_pattern"}[site]
        hooks: list[Any] = [
            (hook_name(model, layer, pattern), attention_hook(places, scores, row))
            for row, layer in enumerate(layers)
        ]
        queries, _ = places["prefix_matching"]
        sums = DecoderSums(model, queries) if layers == decoder else None
        hooks += [] if sums is None else sums.hooks()
        encoded, given = (
            torch.tensor([list(t)], device=model.W_E.device) for t in (encoded_tokens, decoded)
        )
        model.run_with_hooks(encoded, given, fwd_hooks=hooks)
        if sums is not None:
            scores["induction"] = sums.heads_add(site, given[0, queries + 1], once)
        return Scored(site, layers[0], scores)

    return (
        scored("z", encoder, places_when_repeated(before, length, both_ways=True),
               given.read(once, once), given.begins),
        scored("z", decoder, places_when_repeated(begins, length, both_ways=False),
               given.read(drawn.others), (*given.begins, *once, *once)),
        scored("cross_z", decoder, places_when_copied(begins, before, length),
               given.read(once), (*given.begins, *once)),
    )  # fmt: skip
