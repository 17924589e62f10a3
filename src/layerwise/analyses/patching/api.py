"""Activation patching: at which layer, position and head the answer is carried.

One run is made with one activation taken from another run: the corrupted prompt's with the clean
prompt's (denoising), or the other way round (noising). What is measured is the share of the way
between the two that this goes (Meng et al. 2022, arXiv:2202.05262; Heimersheim and Nanda 2024,
arXiv:2404.15255).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.ground.readers import some_of
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model
from layerwise.runs.options import PairOptions
from layerwise.runs.setup import TaskLike, prepare

from .cells import refuse_unknown_places
from .job import Patching
from .result import PatchingResult
from .tables import DIRECTIONS


@check_arguments(refuse_unknown_places, directions=some_of("direction", DIRECTIONS))
@exclusive
def patch_activations(
    model: Model,
    tasks: TaskLike | Sequence[TaskLike] | None = None,
    *,
    sites: str | Sequence[str] = ("resid_pre",),
    directions: str | Sequence[str] = ("denoising",),
    positions: str | Sequence[str] | None = None,
    kl: bool = False,
    align: bool = False,
    pairs: int = 16,
    memory_budget: int | None = None,
    **run: Unpack[PairOptions],
) -> PatchingResult:
    """Patch each layer and position, or head, between a clean and a corrupted prompt.

    The pairs come from the tasks' items (another key, another subject); those are used of which
    the model prefers the right answer in both prompts, since elsewhere there is nothing to
    carry, and whose prompts have the same number of tokens or are to be aligned.

    In an encoder-decoder the encoder is patched at the prompt's positions, the decoder at what it
    begins with; ``answer`` is the position where the answer's first token is predicted.

    The engine patches streams, outputs of sublayers and of heads. Attention patterns, keys and
    values, and KL divergences take one plain forward per patch.

    Args:
        tasks: task names, capabilities, or ``Task`` values whose items have corruptions; if None
            ``kv-words`` and ``facts``, or all suites of the toy language that the model speaks.
        sites: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``; by head
            ``z`` (output before the output projection) and ``pattern`` (attention after the
            softmax). Decoders of encoder-decoders also have ``cross_attn_out``,
            ``resid_mid_cross``, ``cross_z``, ``cross_pattern``, and ``cross_k`` and ``cross_v``
            (keys and values of the input, at the prompt's positions).
        directions: ``denoising``: the corrupted run gets the clean one's activation;
            ``noising``: the clean run gets the corrupted one's.
        positions: labels: ``first changed``, ``middle changed``, ``last changed``, ``next``,
            ``further``, ``last``, or ``all`` from the first changed token on. Encoder-decoders also
            have ``before``, and in the decoder ``answer`` and ``start``; ``docs/patching.md``
            defines them. If None, every label but ``all``; for heads ``last changed``, ``last``,
            ``answer`` and ``all``.
        kl: also measure the KL divergence of the next token's distribution.
        align: use pairs of unequal length, too. The first changed tokens match, the last ones
            match, and what follows matches by its distance from the end.

    Returns:
        One row per pair, direction, site, layer, head and position.

    Raises:
        UserError: for anything unknown, or a task that has no pair that can be patched.
    """
    setup = prepare(
        model, tasks, ("continuation",), paired=True, memory_budget=memory_budget, **run
    )
    job = Patching(
        setup, tuple(sites), pairs, directions=tuple(directions),
        positions=None if positions is None else tuple(positions), kl=kl, align=align,
    )  # fmt: skip
    return execute_job(job, PatchingResult, "activation patching", run)
