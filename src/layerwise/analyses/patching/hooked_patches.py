"""Patches by plain hooks: for what the engine does not do, and to hold it against.

One forward per patch, some patches side by side in a batch: slow and obvious. It gives the
whole next-token distribution and patches attention patterns. What a run says is read where the
answer begins: behind the prompt, or in a decoder of its own behind what it begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float

from layerwise.models.instance.kinds import Model, hook_name, inputs_of, is_seq2seq
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.readout import logits_of

from .cells import PATTERNS, Cell

AT_ONCE = 16
Hook = tuple[str, Callable[..., Any]]


@torch.inference_mode()
def hooked_logprobs(
    model: Model, tokens: Tokens, source: Tokens, cells: Sequence[Cell]
) -> Float[torch.Tensor, "cell d_vocab"]:
    """Log-probabilities of the token after a prompt, under each patch."""
    names = {hook_name(model, cell.layer, cell.site) for cell in cells}
    cache: dict[str, torch.Tensor] = {}

    def keep(tensor: torch.Tensor, hook: Any) -> None:
        cache[hook.name] = tensor

    answer_logits(model, [source], [(name, keep) for name in names])
    logprobs = []
    for start in range(0, len(cells), AT_ONCE):
        some = cells[start : start + AT_ONCE]
        logits = answer_logits(model, [tokens] * len(some), _hooks(model, some, cache))
        logprobs.append(logits.double().log_softmax(-1))
    return torch.cat(logprobs)


@torch.inference_mode()
def intact_logprobs(model: Model, tokens: Tokens) -> Float[torch.Tensor, " d_vocab"]:
    """Log-probabilities of the token after a prompt."""
    return answer_logits(model, [tokens], [])[0].double().log_softmax(-1)


def answer_logits(
    model: Model, prompts: Sequence[Tokens], hooks: Sequence[Hook]
) -> Float[torch.Tensor, "row d_vocab"]:
    """Logits of the token after each prompt."""
    run = partial(model.run_with_hooks, *inputs_of(model, prompts), fwd_hooks=list(hooks))
    if is_seq2seq(model):
        return run()[:, -1]
    # stopping before the unembedding, which would be used at every position
    resid = run(stop_at_layer=model.cfg.n_layers)
    return logits_of(model, resid[:, -1])


def _hooks(model: Model, cells: Sequence[Cell], cache: Any) -> list[Hook]:
    """A hook for each name, that changes the rows of its own cells."""
    rows: dict[str, list[tuple[int, Cell]]] = {}
    for row, cell in enumerate(cells):
        rows.setdefault(hook_name(model, cell.layer, cell.site), []).append((row, cell))

    def put(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        patched, value = tensor.clone(), cache[hook.name][0]
        for row, cell in rows[hook.name]:
            for pos, source in cell.places:
                if cell.site in PATTERNS:
                    patched[row, cell.head, pos] = value[cell.head, source]
                elif cell.head is not None:
                    patched[row, pos, cell.head] = value[source, cell.head]
                else:
                    patched[row, pos] = value[source]
        return patched

    return [(name, put) for name in rows]
