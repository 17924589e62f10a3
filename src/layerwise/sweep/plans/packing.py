"""The tokens of requests in each stack of a model, each distinct beginning once.

A decoder-only model has one stack, which reads the prompt and the answer. An encoder-decoder has
two: the prompt goes to the first, and what is said to the second, behind what it begins with.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from layerwise.sweep.requests import Generate, Request, Tokens

from .trie import TokenTrie

Path = tuple[int, ...]


@dataclass(frozen=True)
class PackedStack:
    """The packed tokens of one stack."""

    trie: TokenTrie
    paths: tuple[Path, ...]  # for each request the packed indices of its tokens
    sources: tuple[Path | None, ...]  # for each request those of its source run, if it has one
    n_given: tuple[int, ...]  # for each request, how many tokens are given before the answer


def in_stacks(prompt: Tokens, answer: Tokens, prefix: Tokens) -> tuple[Tokens, ...]:
    """The tokens that each stack reads; a decoder behind an encoder begins with a prefix."""
    return (prompt, prefix + answer) if prefix else (prompt + answer,)


def run_sequences(request: Request, prefix: Tokens = ()) -> tuple[Tokens, ...]:
    """The tokens that must be run for a request: the last scored token is only read out."""
    answer = () if isinstance(request, Generate) else request.continuation[:-1]
    return in_stacks(request.context, answer, prefix)


def share_key(request: Request) -> tuple[Tokens, Tokens] | None:
    """Requests with one key may share packed tokens."""
    # A patch position is relative to a context and its source, so only requests that agree in both
    # may share a patched token.
    return None if request.source is None else (request.context, request.source)


class Packing:
    """Requests packed one after the other; its length is the number of packed tokens."""

    def __init__(self, prefix: Tokens = ()) -> None:
        self.prefix = prefix
        self.tries = [TokenTrie() for _ in in_stacks((), (), prefix)]
        self.paths: list[list[Path]] = []  # by request and stack
        self.sources: list[list[Path] | None] = []
        self.n_given: list[list[int]] = []

    def __len__(self) -> int:
        return sum(map(len, self.tries))

    def add(self, request: Request) -> None:
        """Pack a request, and its source run."""
        key, source = share_key(request), request.source
        self.paths.append(self._add_paths(run_sequences(request, self.prefix), key))
        # A decoder's source run begins like its prompt; one that is encoded may serve many prompts.
        of_source = "source" if self.prefix else key
        self.sources.append(
            None
            if source is None
            else self._add_paths(in_stacks(source, (), self.prefix), of_source)
        )
        self.n_given.append([*map(len, in_stacks(request.context, (), self.prefix))])

    def _add_paths(self, sequences: tuple[Tokens, ...], key: Hashable) -> list[Path]:
        """Paths of the tokens in each stack."""
        if len(sequences) == 2:  # an encoder sees all of its input, so that only equal ones share
            key = sequences[0], key
        return [
            trie.paths[trie.add(sequence, key)]
            for trie, sequence in zip(self.tries, sequences, strict=True)
        ]

    def sides(self) -> tuple[PackedStack, ...]:
        """The packed tokens by stack."""
        return tuple(
            PackedStack(
                trie,
                tuple(paths[number] for paths in self.paths),
                tuple(None if paths is None else paths[number] for paths in self.sources),
                tuple(given[number] for given in self.n_given),
            )
            for number, trie in enumerate(self.tries)
        )
