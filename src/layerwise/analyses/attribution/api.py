"""Direct logit attribution: what each layer, sublayer and head adds to the answer's logit.

The final residual stream is the sum of what all parts wrote, and the logits are read from it;
what each part wrote is read the same way (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"). Of an encoder-decoder the decoder is read in this way, and what it reads of
the encoder by cross-attention too. Formulas, and what this cannot say, are in
``docs/attribution.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.ground.readers import one_of
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model
from layerwise.runs.options import RunOptions
from layerwise.runs.setup import TaskLike, prepare

from .job import AGAINST, Attribution, refuse_generate
from .result import AttributionResult


@check_arguments(refuse_generate, against=one_of("distractor to compare with", AGAINST))
@exclusive
def attribution(
    model: Model,
    tasks: TaskLike | Sequence[TaskLike] = "all",
    protocols: str | Sequence[str] = ("letter", "continuation"),
    *,
    against: str = "mean",
    **run: Unpack[RunOptions],
) -> AttributionResult:
    """Decompose the answer's logit difference and log-probability by layer and head.

    Read at the prompt's last position, of the answer's first token. Only what a part writes
    directly is counted, not what later layers make of it. Of an encoder-decoder the decoder is read
    where it begins to answer, and what it reads there of the encoder is taken apart by the
    encoder's parts, with the patterns of cross-attention held.

    Args:
        protocols: ``letter`` or ``continuation``: whose prompt is read. The prompt of
            ``generate`` is that of ``continuation``.
        against: the answer's logit minus the ``mean`` of the distractors', or minus that of the
            ``best`` one.

    Returns:
        One row per item, metric and part, values in nats. Layers are numbered in the order of
        computation. The parts that sum to the total of the item and metric are told in
        ``docs/attribution.md``.

    Raises:
        UserError: for anything unknown, a model with a norm of unknown kind, or a task of which
            no item can be read because the answer begins with the same token as a distractor.
    """
    setup = prepare(model, tasks, protocols, **run)
    job = Attribution(setup, against)
    return execute_job(job, AttributionResult, "direct logit attribution", run)
