"""What an encoder-decoder says if its encoder ends early: the exact run of a shorter model.

This is the DecoderLens of Langedijk et al. 2023 (arXiv:2310.03686), by the engine's branches; or,
where a trained translator is put behind the last layer that is left, a probe.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import torch
from jaxtyping import Float

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.activations.intact_run import Place
from layerwise.sweep.changes.interventions import intact, skip_layers
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import LogLikelihood, Tokens
from layerwise.sweep.walk.engine import Work
from layerwise.sweep.walk.engine_run import plan_for, walk_for

from .walk import Seq2SeqWalk

Translate = Callable[[Place, torch.Tensor], torch.Tensor]


@torch.inference_mode()
def truncated_encoder(
    model: Seq2SeqModel,
    texts: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    n_prompt: Sequence[int],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    translate: Translate | None = None,
) -> Float[torch.Tensor, "depth read d_model"]:
    """The decoder's last residual stream where the encoder ends behind each of its layers."""
    check_faithful(model)
    n_encoder = model.cfg.n_encoder_layers
    changes = [skip_layers(range(n, n_encoder)) for n in range(n_encoder)] + [intact()]
    # The last token of a continuation is only read out; any will do.
    requests = [
        LogLikelihood(text[:n], (*text[n:], 0)) for text, n in zip(texts, n_prompt, strict=True)
    ]
    starts = list(accumulate(map(len, positions), initial=0))
    out = model.W_E.new_empty(len(changes), starts[-1], model.cfg.d_model)
    begin = len(model.prefix)
    for batch in plan_for(model, changes, requests, memory_budget).batches:
        batch_requests = [requests[index] for index in batch.requests]
        some = [changes[index] for index in batch.interventions]
        walk = walk_for(model, some, batch_requests, Work())
        assert isinstance(walk, Seq2SeqWalk)
        walk.run(partial(_translate, walk, translate) if translate is not None else None)
        plan = walk.plan
        columns, rows = [], []
        for path, index in zip(plan.paths, batch.requests, strict=True):
            columns += range(starts[index], starts[index + 1])
            decoder_positions = [pos - n_prompt[index] + begin for pos in positions[index]]
            rows += [bisect_left(plan.read, path[pos]) for pos in decoder_positions]
        ends = [(walk.trunk[0], plan.intact)]
        (group,) = walk.groups
        ends += [(group.read[i], branch.members) for i, branch in enumerate(group.branches)]
        for resid, members in ends:
            for member in members:
                out[batch.interventions[member], columns] = resid[rows]
    return out


def _translate(walk: Seq2SeqWalk, translate: Translate, layer: int) -> None:
    """Put translated streams behind the encoder's last layer, before its final norm."""
    # A branch opens where its encoder ends, and holds since then what entered that layer.
    if layer == walk.n_encoder - 1:
        for row, branch in enumerate(walk.branches):
            walk.resid[row] = translate(("resid_post", branch.first_layer - 1), walk.resid[row])
