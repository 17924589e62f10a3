"""One stack of a model as a walk goes through it: its packed tokens, embedded and laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from layerwise.models.instance.kinds import Model, heads_per_key
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.changes.edits import OtherWeights, in_place
from layerwise.sweep.packed.layout import Layout, make_layout
from layerwise.sweep.packed.stack_block import stack_layout
from layerwise.sweep.plans.packing import PackedStack
from layerwise.sweep.plans.walk_plan import WalkPlan

from .readout import embed_tokens


@dataclass(frozen=True)
class Stack:
    """A stack of a model, by its number."""

    model: Model
    plan: WalkPlan
    number: int
    exact: bool  # whether attention must be without padding
    scratch: int  # as of ``Layout``

    @property
    def side(self) -> PackedStack:
        """Its packed tokens."""
        return self.plan.sides[self.number]

    @property
    def encodes(self) -> bool:
        """True if another stack looks at its output."""
        return self.number < len(self.plan.sides) - 1

    def embed_inputs(self, weights: OtherWeights | None) -> Float[torch.Tensor, "token d_model"]:
        """The residual stream that enters it, by the model's embeddings or by others."""
        trie, device = self.side.trie, self.model.W_E.device
        tokens, positions = (
            torch.tensor(numbers, dtype=torch.long, device=device)
            for numbers in (trie.tokens, trie.positions)
        )
        with in_place(weights):
            return embed_tokens(self.model, tokens, positions, self.encodes)

    def layout(
        self, carried: frozenset[int] | None, outputs: Sequence[int] | None = None
    ) -> Layout:
        """The layout of its tokens, or of those that are carried."""
        trie, like = self.side.trie, self.model.W_E
        if isinstance(self.model, Seq2SeqModel):
            parts = self.model.parts.encoder if self.encodes else self.model.parts.decoder
            looks = None if self.encodes else self.plan.looks(carried is not None)
            return stack_layout(trie, carried, parts.relative, looks, like)
        return make_layout(
            trie,
            carried,
            exact=self.exact,
            like=like,
            outputs=outputs,
            scratch=self.scratch,
            group=heads_per_key(self.model.cfg),
        )
