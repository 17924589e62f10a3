"""Items encoded as requests and pairs of prompts, each once as far as there is room."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from layerwise.errors import UserError
from layerwise.models.instance.kinds import Model, is_seq2seq, vocabularies
from layerwise.sweep.requests import LogLikelihood, refuse_unknown_tokens
from layerwise.tasks import (
    PatchingPrompts,
    Task,
    TaskRequest,
    build_requests,
    patching_prompts,
    with_other_questions,
)
from layerwise.tasks._encoding import ByteLevel
from layerwise.tasks.items import Item

_Made = TypeVar("_Made")

# Prompts of so many tokens are kept, some 70 MB; those of further items are encoded each time.
_MOST_TOKENS = 6_000_000
# What else is kept of a request takes as much memory as so many tokens.
_TOKENS_OF_REQUEST = 60


@dataclass
class Built:
    """Cache of encoded items, up to a size."""

    # Requests, a pair of prompts (None where an item has none), or what is made once.
    made: dict[Any, Any] = field(default_factory=dict)
    n_tokens: int = 0  # tokens of all prompts
    # Of requests in a chat template, which may put the time of day in: what they were.
    digests: dict[tuple[str, ...], bytes] = field(default_factory=dict)

    def of(self, key: Any, encode: Callable[[], _Made], n_tokens: Callable[[_Made], int]) -> _Made:
        """What was encoded under a key, encoded now unless it was; kept if there is room."""
        if key in self.made:
            kept: _Made = self.made[key]
            return kept
        made = encode()
        size = n_tokens(made)
        if self.n_tokens + size <= _MOST_TOKENS:
            self.made[key] = made
            self.n_tokens += size
        return made

    def once(self, key: Any, make: Callable[[], _Made]) -> _Made:
        """As ``of``, and always kept: small beside prompts, but made from all items of a task."""
        return self.of(key, make, lambda _: 0)

    def other_questions(self, task: Task, seed: int) -> dict[str, tuple[Item, ...]]:
        """By id, all items of a task with each of the other questions that they are asked."""
        return self.once(
            ("other questions", task.hash, seed),
            lambda: with_other_questions(task, task.items, seed=seed),
        )

    def requests(
        self, model: Model, tokenizer: Any, chat: bool, task: Task, item: Item, protocol: str
    ) -> tuple[TaskRequest, ...]:
        """The requests of one item."""

        def encode() -> tuple[TaskRequest, ...]:
            n_ctx, apart = model.cfg.n_ctx, is_seq2seq(model)
            made = build_requests(
                task, item, protocol, tokenizer, chat=chat, max_length=n_ctx, apart=apart
            )
            refuse_unknown_tokens([request.request for request in made], *vocabularies(model))
            if not chat:
                return made
            whole = repr([request.request for request in made])
            digest = hashlib.sha256(whole.encode()).digest()[:8]
            if self.digests.setdefault((task.hash, item.id, protocol), digest) != digest:
                raise UserError(
                    f"The prompts of task {task.name!r} changed while the run went on: expected a "
                    "chat template that makes the same prompt each time, without today's date; "
                    "take the date out of it, or turn the chat option off."
                )
            return made

        def n_tokens(made: tuple[TaskRequest, ...]) -> int:
            plain = [request.request for request in made]  # they share one context
            own = sum(len(r.continuation) for r in plain if isinstance(r, LogLikelihood))
            return len(plain[0].context) + own + _TOKENS_OF_REQUEST * len(plain)

        return self.of((tokenizer, chat, task.hash, item.id, protocol), encode, n_tokens)

    def refuse(
        self, model: Model, tokenizer: Any, chat: bool, task: Task, item: Item, protocol: str
    ) -> None:
        """Refuse an item that cannot be put to the model; encode it only if that is in doubt."""
        n_known = min(vocabularies(model))
        counted = self.once((tokenizer, "bytes"), lambda: ByteLevel.of(tokenizer, n_known))
        if (
            chat
            or is_seq2seq(model)
            or counted is None
            or not counted.surely_fits(task, item, protocol, model.cfg.n_ctx)
        ):
            self.requests(model, tokenizer, chat, task, item, protocol)

    def expect(self, digests: dict[tuple[str, ...], bytes]) -> None:
        """Refuse other requests than those that another process of the run encoded."""
        if any(self.digests.get(key, digest) != digest for key, digest in digests.items()):
            self.made.clear()
            self.n_tokens = 0
        self.digests.update(digests)

    def pair(self, model: Model, tokenizer: Any, task: Task, item: Item) -> PatchingPrompts | None:
        """The two prompts of an item that are patched between; None if it has no corruption."""

        def encode() -> PatchingPrompts | None:
            made = patching_prompts(task, item, tokenizer, apart=is_seq2seq(model))
            if made is not None:
                both = LogLikelihood(made.clean, (), made.corrupted)
                refuse_unknown_tokens([both], *vocabularies(model))
            return made

        def n_tokens(made: PatchingPrompts | None) -> int:
            return len(made.clean) + len(made.corrupted) if made else 1

        return self.of((tokenizer, "pair", task.hash, item.id), encode, n_tokens)
