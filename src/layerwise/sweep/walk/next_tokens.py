"""What a model would say next, as a whole distribution, under each of many interventions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float

from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model

from ..changes.interventions import Intervention
from ..checks.faithful import check_faithful
from ..decoding.stopping import make_stopper
from ..plans.plan import DEFAULT_MEMORY_BUDGET
from ..requests import Generate, Tokens
from ..seq2seq.walk import Seq2SeqWalk
from .engine import Walk
from .engine_run import Engine, plan_for
from .readout import CHUNK, logits_of


@exclusive
@torch.inference_mode()
def next_logprobs(
    model: Model,
    interventions: Sequence[Intervention],
    context: Tokens,
    *,
    source: Tokens | None = None,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Float[torch.Tensor, "intervention d_vocab"]:
    """Log-probabilities of the token after a prompt, in nats, under each intervention.

    Args:
        model: the model; what the engine would not see of it is refused.
        interventions: what is changed; no other model's weights.
        context: token ids of the prompt.
        source: token ids of the run that activations are taken from, for patches.
        memory_budget: bytes for activations.
    """
    check_faithful(model)
    requests = [Generate(context, 1, source=source)]
    plan = plan_for(model, interventions, requests, memory_budget)
    engine = Engine(model, interventions, requests, make_stopper(None, ()), memory_budget)
    out = model.W_E.new_empty(len(interventions), model.cfg.d_vocab, dtype=torch.float32)
    for batch in plan.batches:
        walk = engine.walk(batch)
        walk.run()
        # Many rows at once: for a single one, most of the time goes to reading the weights.
        ends = list(_ends(walk))
        for start in range(0, len(ends), CHUNK):
            part = ends[start : start + CHUNK]
            logprobs = logits_of(model, torch.stack([resid for _, resid in part])).log_softmax(-1)
            for (members, _), of_branch in zip(part, logprobs, strict=True):
                out[[batch.interventions[member] for member in members]] = of_branch
    return out


def _ends(
    walk: Walk | Seq2SeqWalk,
) -> Iterator[tuple[Sequence[int], Float[torch.Tensor, " d_model"]]]:
    """By branch of a walk of one request: its interventions, and the last residual stream."""
    plan = walk.plan
    row = plan.read.index(plan.paths[0][plan.n_given[0] - 1])
    if plan.intact:
        yield plan.intact, walk.trunk[0, row]
    for group in walk.groups:
        for branch, resid in zip(group.branches, group.read, strict=True):
            yield branch.members, resid[row]
