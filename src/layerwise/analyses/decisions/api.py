"""Decide which layers are needed and which are spare, item by item, and stop where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.errors import UserError
from layerwise.ground.argument_types import (
    ExpectedWords,
    Layers,
    Method,
    SomeNames,
    Whole,
    known_name_validator,
)
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.runs.options import RunOptions
from layerwise.runs.setup import check_layers, prepare
from layerwise.stats.sequential.ordered_pools import MEASURES
from layerwise.stats.sequential.race import QUESTIONS
from layerwise.stats.share_tests.equivalence import SmallestEffects, check_smallest_effects

from .job import ROUND_ITEMS, Decisions
from .result import DecisionsResult


def refuse_rounds(round_items: int) -> None:
    """Refuse rounds without items."""
    if round_items < 1:
        raise UserError(f"Rounds of {round_items} items were asked for; expected at least 1.")


def refuse_unfit_measure(measure: str | None, protocols: Sequence[str]) -> None:
    """Refuse nats of written answers, which have none."""
    if measure == "nats" and "generate" in protocols:
        raise UserError(
            "Written answers have no log-probability of the right one: expected the measure "
            "'accuracy' with 'generate'; leave the measure out to take nats where there are some."
        )


@check_arguments(refuse_rounds, refuse_unfit_measure, check_smallest_effects)
@exclusive
def decide(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = ("letter", "continuation", "generate"),
    *,
    questions: Annotated[SomeNames, known_name_validator("question", QUESTIONS)] = (
        "needed",
        "spare",
    ),
    measure: Annotated[str, known_name_validator("measure", MEASURES)] | None = None,
    layers: Layers | None = None,
    round_items: Annotated[Whole, ExpectedWords("a whole number", "24 items")] = ROUND_ITEMS,
    smallest_loss: float = 0.05,
    smallest_nats: float = 0.1,
    method: Method = "engine",
    **run: Unpack[RunOptions],
) -> DecisionsResult:
    """Skip each layer, with as many items as its verdicts take; they hold whenever a run stops.

    The intact model answers all items first. Then items are asked in rounds, in an order that the
    seed fixes. A layer is asked no more once all questions about it are decided, so a run takes a
    part of the work of ``ablate``. Each question's verdicts are one family over capabilities,
    protocols and layers: the chance that any of them is false is at most 5 %, whenever one stops.
    That is sequential Holm (Bartroff and Song 2014, arXiv:1304.6309) on bets on bounded means
    (Waudby-Smith and Ramdas 2024, arXiv:2010.09686).

    Args:
        questions: ``needed``: it costs something. ``spare``: it costs less than the smallest loss
            of interest, in every task. ``crossing``: it costs one capability more than another
            layer does, which costs another capability more; layers that are not spare are then
            asked until they are on a crossing, which takes most items of most layers.
        measure: ``nats``, of which an item counts for 1 at most, or ``accuracy``; if None, nats
            where answers have a log-probability, and accuracy of written ones.
        round_items: items of each capability and protocol in a round; small rounds stop sooner,
            and read prompts' common beginnings more often.

    Returns:
        One record per answer; ``decisions()`` has the verdicts.

    Raises:
        UserError: for anything unknown, out of range or contradictory, before work begins.

    Example:
        >>> result = layerwise.decide(model, "facts", "continuation")  # doctest: +SKIP
        >>> result.decisions()[["layer", "question", "established", "n_items"]]  # doctest: +SKIP
    """
    refuse_rounds(round_items)
    refuse_unfit_measure(measure, protocols)
    check_smallest_effects(smallest_loss, smallest_nats)
    interest = SmallestEffects(smallest_loss, smallest_nats)
    setup = prepare(model, tasks, protocols, method=method, interest=interest, **run)
    job = Decisions(
        setup, check_layers(layers, model), tuple(questions), measure, round_items, method
    )
    return execute_job(job, DecisionsResult, "decisions", run, job.scoring.write_requests)
