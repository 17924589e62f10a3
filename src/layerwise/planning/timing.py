"""Speed of a model in what is planned: a small sample of the planned sweeps, run and timed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from layerwise.runs.setup import Setup
from layerwise.sweep import Generate, Generated, Intervention, Sweep, intact, skip, skip_layers
from layerwise.sweep.plans.cost import Cost, TextLengths
from layerwise.sweep.plans.trie import TokenTrie
from layerwise.sweep.requests import Request, n_common_tokens
from layerwise.tasks import Task

# About so long prompts are timed, and texts; longer where one request of a large model takes more.
SECONDS = 1.5
# A sample is of so many of the planned sweeps, or fewer.
SWEEPS = 4
# Items of a task whose texts are tried.
TRIED = 4
# Prompts of these items have at most so many tokens together, shared ones once.
MOST_TRIED = 1024
# Texts of so many tokens, after prompts of so many, tell how long a step of many texts takes.
SHORT_TEXTS, SHORT_PROMPTS = 5, 32


class PlannedSweep(NamedTuple):
    """Requests of a task that are put to a model under interventions."""

    task: Task
    interventions: Sequence[Intervention]
    requests: Sequence[Request]

    def part(self, share: float) -> PlannedSweep:
        """About a share of the work: the first intervention and others, the first requests."""
        few = sqrt(min(1.0, share))
        every, requests = self.interventions, self.requests
        n_changes = min(len(every), max(2, round(few * len(every))))
        changes = [every[i * len(every) // n_changes] for i in range(n_changes)]
        return PlannedSweep(self.task, changes, requests[: max(1, round(few * len(requests)))])

    def in_layers(self, n: int, n_layers: int) -> PlannedSweep:
        """One request in so many of the layers: less than a part of a long prompt can be."""
        skipped = set(range(n_layers)) - {i * n_layers // n for i in range(n)}
        change = skip_layers(sorted(skipped)) if skipped else intact()
        return PlannedSweep(self.task, [change], [replace(self.requests[0], source=None)])

    def shorten(self, *, prompts: int | None = None, texts: int | None = None) -> PlannedSweep:
        """The same with the ends of longer prompts, and texts of at most so many tokens."""
        requests = []
        for each in self.requests:
            if prompts is not None and each.source is None:
                each = replace(each, context=each.context[:1] + each.context[1:][-prompts:])
            if texts is not None and isinstance(each, Generate):
                each = replace(each, max_tokens=min(texts, each.max_tokens))
            requests.append(each)
        return self._replace(requests=requests)


@dataclass(frozen=True)
class PlannedSetup(Setup):
    """A setup that keeps every sweep whose cost is asked for, by setups made from it too."""

    sweeps: list[PlannedSweep] = field(default_factory=list, repr=False, compare=False)

    def cost(
        self, task: Task | None, interventions: Sequence[Intervention], requests: Sequence[Request]
    ) -> Cost:
        """Cost of putting requests, of a task if they are of one, to the model."""
        if task is not None:
            self.sweeps.append(PlannedSweep(task, interventions, requests))
        return super().cost(task, interventions, requests)


class TimedWork(NamedTuple):
    """Work, and how long it took."""

    cost: Cost
    seconds: float


@dataclass(frozen=True)
class Speed:
    """Seconds by the work that takes them."""

    flop: float  # for an operation of prompts, options and readings
    step: float = 0.0  # for a step of decoding, however many texts are written
    text_flop: float = 0.0  # for an operation of texts

    def seconds(self, cost: Cost) -> float:
        """Seconds for some work."""
        prompts, texts = self.flop * cost.prompt_flop, self.text_flop * cost.text_flop
        return prompts + texts + self.step * cost.steps


def time_sweeps(
    setup: Setup, sweeps: Iterable[PlannedSweep], into: dict[str, TextLengths] | None = None
) -> TimedWork:
    """Run sweeps; their work is that of the texts that came out."""
    cost, seconds = Cost(), 0.0
    for task, interventions, requests in sweeps:
        swept = setup.sweep(interventions, requests)
        lengths = {task.name: text_lengths(swept, requests)}
        cost += Setup.cost(replace(setup, lengths=lengths), task, interventions, requests)
        seconds += swept.stats.seconds
        if into is not None:
            into |= lengths
    return TimedWork(cost, seconds)


def text_lengths(swept: Sweep, requests: Sequence[Request]) -> TextLengths:
    """Mean lengths of the texts of a sweep whose first intervention is the intact model."""
    first, *changed = (
        [text.tokens for text in texts if isinstance(text, Generated)] for texts in swept.outcomes
    )
    most = max(1, sum(request.max_tokens for request in requests if isinstance(request, Generate)))
    together = [(text, first[i]) for texts in changed for i, text in enumerate(texts)]
    written = sum(len(text) for text, _ in together)
    return TextLengths(
        sum(map(len, first)) / most,
        written / most / max(1, len(changed)),
        sum(n_common_tokens(*pair) for pair in together) / max(1, written),
    )


def few_texts(setup: Setup, task: Task) -> PlannedSweep:
    """The texts of a few items, of the intact model and with one layer skipped."""
    trie, requests = TokenTrie(), list[Request]()
    for item in task.items[:TRIED]:
        of_item = [each.request for each in setup.requests(task, item, "generate")]
        for request in of_item:
            trie.add(request.context)
        if requests and len(trie) > MOST_TRIED:
            break
        requests += of_item
    changes = [intact(), skip(setup.model.cfg.n_layers // 2)]
    return PlannedSweep(task, changes, requests).shorten(prompts=MOST_TRIED)


def measure_speed(setup: Setup, planned: Sequence[PlannedSweep], few: TimedWork | None) -> Speed:
    """The speed of planned sweeps: prompts and options from the largest sample there is time for.

    Where texts are written, also from few texts, in which steps take the time, and from the
    beginnings of many, in which arithmetic does.
    """
    some, whole = _spread(setup, [sweep.shorten(texts=0) for sweep in planned])
    least = some[0].part(0.0)
    flop_of_least = Setup.cost(setup, *least).flop
    n_layers = setup.model.cfg.n_layers
    last = time_sweeps(setup, [least.in_layers(1, n_layers)])
    spent, share = last.seconds, 0.0
    while spent < SECONDS / 2 and share < 1:
        # Half of what there is time for, since work that all interventions share is in each part.
        room = (SECONDS - spent) / 2 * last.cost.flop / last.seconds
        share = room / whole
        sample = [sweep.part(share) for sweep in some[: int(room / flop_of_least)]]
        n_timed = max(1, int(room / flop_of_least * n_layers))
        last = time_sweeps(setup, sample or [least.in_layers(n_timed, n_layers)])
        spent += last.seconds
    flop = last.seconds / last.cost.prompt_flop
    if few is None:
        return Speed(flop)
    writing = [sweep for sweep in planned if sweep.shorten(texts=0) != sweep]
    some, whole = _spread(setup, [sweep.shorten(prompts=SHORT_PROMPTS) for sweep in writing])
    share = SECONDS / 4 / flop / whole
    many = [sweep.part(share).shorten(texts=SHORT_TEXTS) for sweep in some]
    prompts = time_sweeps(setup, [sweep.shorten(texts=0) for sweep in many])
    texts = time_sweeps(setup, many)
    work = np.array([(timed.cost.steps, timed.cost.text_flop) for timed in (few, texts)])
    unit = work.max(axis=0).clip(min=1.0)
    of_texts = few.seconds - flop * few.cost.prompt_flop, texts.seconds - prompts.seconds
    step, text_flop = nnls(work / unit, np.clip(of_texts, 0.0, None))[0] / unit
    return Speed(flop, float(step), float(text_flop))


def _spread(setup: Setup, planned: Sequence[PlannedSweep]) -> tuple[list[PlannedSweep], float]:
    """A few of the sweeps, those of least work first, and the operations of all of them."""
    some = planned[:: -(-len(planned) // SWEEPS)]
    work = [Setup.cost(setup, *sweep).flop for sweep in some]
    order = sorted(range(len(some)), key=work.__getitem__)
    return [some[i] for i in order], sum(work)
