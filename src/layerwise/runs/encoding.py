"""Items encoded as requests and pairs of prompts, each once as far as there is room."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from layerwise.errors import UserError
from layerwise.sweep.requests import LogLikelihood
from layerwise.tasks import Task, TaskRequest, with_other_questions
from layerwise.tasks.items import Item

_Made = TypeVar("_Made")

# Prompts of so many tokens are kept, some 70 MB; those of further items are encoded each time.
_MOST_TOKENS = 6_000_000
# What else is kept of a request takes as much memory as so many tokens.
_TOKENS_OF_REQUEST = 60


@dataclass
class EncodingCache:
    """Cache of encoded items, up to a size."""

    # Requests, a pair of prompts (None where an item has none), or what is made once.
    made: dict[Any, Any] = field(default_factory=dict)
    n_tokens: int = 0  # tokens of all prompts
    # Of requests in a chat template, which may put the time of day in: what they were.
    digests: dict[tuple[str, ...], bytes] = field(default_factory=dict)

    def get_or_encode(
        self, key: Any, encode: Callable[[], _Made], n_tokens: Callable[[_Made], int]
    ) -> _Made:
        """Encoded value of a key, encoded now unless it was; kept if there is room."""
        if key in self.made:
            kept: _Made = self.made[key]
            return kept
        made = encode()
        size = n_tokens(made)
        if self.n_tokens + size <= _MOST_TOKENS:
            self.made[key] = made
            self.n_tokens += size
        return made

    def get_or_encode_kept(self, key: Any, make: Callable[[], _Made]) -> _Made:
        """As ``get_or_encode``, and always kept: small, but made from all items of a task."""
        return self.get_or_encode(key, make, lambda _: 0)

    def other_questions(self, task: Task, seed: int) -> dict[str, tuple[Item, ...]]:
        """By id, all items of a task with each of the other questions that they are asked."""
        return self.get_or_encode_kept(
            ("other questions", task.hash, seed),
            lambda: with_other_questions(task, task.items, seed=seed),
        )

    def refuse_changed_requests(
        self, task: Task, item: Item, requests: Sequence[TaskRequest]
    ) -> None:
        """Refuse an item's requests if they were others when it was encoded before."""
        whole = repr([request.request for request in requests])
        digest = hashlib.sha256(whole.encode()).digest()[:8]
        if self.digests.setdefault((task.hash, item.id, requests[0].protocol), digest) != digest:
            raise UserError(
                f"The prompts of task {task.name!r} changed while the run went on: expected a chat "
                "template that makes the same prompt each time, without today's date; take the "
                "date out of it, or turn the chat option off."
            )

    def expect(self, digests: dict[tuple[str, ...], bytes]) -> None:
        """Refuse other requests than those that another process of the run encoded."""
        if any(self.digests.get(key, digest) != digest for key, digest in digests.items()):
            self.made.clear()
            self.n_tokens = 0
        self.digests.update(digests)


def memory_in_tokens(requests: Sequence[TaskRequest]) -> int:
    """The memory of an item's requests, in tokens; they share one context."""
    plain = [request.request for request in requests]
    own = sum(len(request.continuation) for request in plain if isinstance(request, LogLikelihood))
    return len(plain[0].context) + own + _TOKENS_OF_REQUEST * len(plain)
