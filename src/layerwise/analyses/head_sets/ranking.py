"""Scores by which heads are chosen, and the sets that are removed.

A head is a layer and its number within it. Nothing here knows what a task asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from layerwise.models.instance.kinds import DecoderOnly, embedding_hooks, hook_name
from layerwise.sweep import Intervention, skip, together
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.readout import final_logits
from layerwise.tasks import Task

Head = tuple[int, int]
# So many draws for each random set that is wanted, until that many different ones are found.
_TRIES = 50
# Of the highest score: float32 leaves so much of a head that does nothing.
_NOTHING = 1e-6


class Target(NamedTuple):
    """A set of heads to be chosen, and what it is tested on."""

    ranked_on: tuple[Task, ...]  # none if heads are ranked on random tokens
    tested_on: tuple[Task, ...]

    @property
    def name(self) -> str | None:
        """The tasks that rank; None if none does."""
        return ", ".join(task.name for task in self.ranked_on) or None


@torch.inference_mode()
def copy_scores(
    model: DecoderOnly, context: Tokens, answer: Tokens
) -> Float[np.ndarray, "layer head"]:
    """Share of an answer's tokens that each head copies, the answer given (Wu et al. 2024, Eq. 1).

    A head copies a token if, where the model is to say it, the head's largest attention is on the
    same token of the prompt.
    """
    tokens = _input(model, context, answer)
    at, said = _answer_positions(context, answer), tokens.new_tensor(answer)
    n_layers = model.cfg.n_layers
    copied = np.zeros((n_layers, model.cfg.n_heads))
    rows = {hook_name(model, layer, "pattern"): layer for layer in range(n_layers)}
    given = torch.tensor([*context, *answer[:-1]], device=tokens.device)

    def count(pattern: Float[torch.Tensor, "1 head query key"], hook: Any) -> None:
        top = pattern[0, :, at].argmax(dim=-1)
        hits = (given[top] == said) & (top < len(context))
        copied[rows[hook.name]] = hits.double().mean(dim=-1).cpu().numpy()

    hooks: Any = [(name, count) for name in rows]
    model.run_with_hooks(tokens, fwd_hooks=hooks, stop_at_layer=n_layers)
    return copied


def cost_estimates(
    model: DecoderOnly, context: Tokens, answer: Tokens
) -> Float[np.ndarray, "layer head"]:
    """Log-odds that an answer's tokens would lose without each head, in nats, by a gradient.

    The log-odds of each token against all others, mean over the tokens, are taken to be linear in
    what the head writes (Michel et al. 2019, arXiv:1905.10650).
    """
    layers = range(model.cfg.n_layers)
    kept: dict[str, torch.Tensor] = {}

    def start(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        return tensor.detach().requires_grad_(True)

    def keep(tensor: torch.Tensor, hook: Any) -> None:
        kept[hook.name] = tensor

    names = [hook_name(model, layer, "z") for layer in layers]
    hooks: Any = [(name, start) for name in embedding_hooks(model)]
    hooks += [(name, keep) for name in names]
    tokens = _input(model, context, answer)
    with torch.enable_grad():
        last = model.run_with_hooks(tokens, fwd_hooks=hooks, stop_at_layer=len(layers))
        logits = final_logits(model, last[0, _answer_positions(context, answer)]).double()
        said = logits.new_tensor(answer, dtype=torch.long)[:, None]
        others = logits.scatter(1, said, -torch.inf).logsumexp(dim=1)
        odds = (logits.gather(1, said)[:, 0] - others).mean()
        slopes = torch.autograd.grad(odds, [kept[name] for name in names])
    # Without a head its output is zero, so that it takes its whole output times the slope.
    lost = [
        (slope.double() * kept[name].detach().double()).sum(dim=(0, 1, 3))
        for name, slope in zip(names, slopes, strict=True)
    ]
    return torch.stack(lost).cpu().numpy()


def _input(model: DecoderOnly, context: Tokens, answer: Tokens) -> torch.Tensor:
    return torch.tensor([[*context, *answer[:-1]]], device=model.W_E.device)


def _answer_positions(context: Tokens, answer: Tokens) -> slice:
    """The positions at which the model is to say the tokens of an answer."""
    return slice(len(context) - 1, len(context) + len(answer) - 1)


def top_heads(scores: Float[np.ndarray, "layer head"], n: int) -> list[Head]:
    """At most ``n`` heads with the highest scores, of those above 0; the first ones of ties."""
    order = np.argsort(-scores, axis=None, kind="stable")[:n]
    heads = zip(*np.unravel_index(order, scores.shape), strict=True)
    least = max(0.0, _NOTHING * float(scores.max()))
    return sorted((int(layer), int(head)) for layer, head in heads if scores[layer, head] > least)


def random_head_sets(
    chosen: Sequence[Head], n_heads: int, count: int, rng: np.random.Generator
) -> list[list[Head]]:
    """At most ``count`` different random sets with as many heads in each layer as ``chosen``.

    They are drawn from the other heads of the layer; from all of them where too few others are.
    """
    drawn: dict[tuple[Head, ...], None] = {}
    for _ in range(_TRIES * count):
        heads: list[Head] = []
        for layer, n in sorted(Counter(layer for layer, _ in chosen).items()):
            others = [head for head in range(n_heads) if (layer, head) not in chosen]
            among = others if len(others) >= n else range(n_heads)
            heads += [(layer, int(head)) for head in rng.choice(among, n, replace=False)]
        if sorted(heads) != sorted(chosen):
            drawn[tuple(sorted(heads))] = None
        if len(drawn) == count:
            break
    return [list(heads) for heads in drawn]


def remove_heads(heads: Sequence[Head]) -> Intervention:
    """Some heads write nothing, all at once."""
    return together([skip(layer, "z", head) for layer, head in heads])
