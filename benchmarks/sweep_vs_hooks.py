"""The engine against hooked forwards: the same requests in one process, agreement checked first.

The work is the demo's own kind: SmolLM2-135M, three suites, three protocols, the intact model and
each of the layers skipped. The hand-written side is in ``hooked_ways``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from hooked_ways import generate_cached, score_batched
from machine import machine
from measuring import Cost, markdown, spread, time_and_report
from same_work import Agreement, check

from layerwise.models import load_model, original_tokenizer
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.sweep import Intervention, intact, skip, sweep
from layerwise.sweep.requests import make_stopper
from layerwise.tasks import build_requests, load_task

SUITES = ("facts", "kv-words", "arithmetic")


@dataclass(frozen=True)
class Row:
    """One comparison of the engine with another way of doing the same work."""

    work: str
    way: str
    engine: Cost
    hooks: Cost


class Comparison:
    """Requests to a model under all changes by the engine, and under some or all by hooks.

    A hooked forward costs the same whichever layer is skipped, so that seconds of some changes
    are scaled to all of them.
    """

    def __init__(self, model: DecoderOnly, groups: list[list[Any]], n_hooked: int) -> None:
        self.model, self.requests = model, list(chain(*groups))
        self.layers: list[int | None] = [None, *range(model.cfg.n_layers)]
        changes = [intact() if layer is None else skip(layer) for layer in self.layers]
        self.hooked = spread(len(changes), n_hooked)
        self.changes: list[Intervention] = [changes[index] for index in self.hooked]
        swept, spent = time_and_report("engine", lambda: sweep(model, changes, self.requests))
        self.outcomes, self.stats = swept.outcomes, swept.stats
        self.engine = Cost(spent.seconds, spent.cpu_seconds, self.stats.token_passes)
        self.agreement = Agreement()

    def reference(self) -> list[list[Any]]:
        """One plain hooked forward per change and request, and per token in generation."""
        return sweep(self.model, self.changes, self.requests, method="reference").outcomes

    def row(self, work: str, way: str, run: Callable[[], Any], token_passes: int) -> Row:
        """Time a way with hooks; the same outcomes as the engine's are a condition."""
        outcomes, spent = time_and_report(f"{work}, {way}", run)
        ours = [self.outcomes[index] for index in self.hooked]
        self.agreement += check(self.model, self.changes, self.requests, ours, outcomes)
        scale = len(self.layers) / len(self.hooked)
        hooks = Cost(spent.seconds * scale, spent.cpu_seconds * scale, token_passes)
        return Row(work, way, self.engine, hooks)

    def hooked_layers(self) -> list[int | None]:
        """The layers that are skipped with hooks; None for the intact model."""
        return [self.layers[index] for index in self.hooked]


def ask(n_items: int, protocols: Sequence[str], tokenizer: Any) -> list[list[Any]]:
    """The requests, those of one item together."""
    return [
        [one.request for one in build_requests(task, item, protocol, tokenizer)]
        for task in (load_task(name, limit=n_items) for name in SUITES)
        for protocol in protocols
        for item in task.items
    ]


def compare_scoring(model: DecoderOnly, groups: list[list[Any]], n_hooked: int) -> Any:
    one, work = Comparison(model, groups, n_hooked), "log-likelihoods"
    once = one.stats.brute_force_token_passes
    rows = [one.row(work, "a forward per option", one.reference, once)]
    run = lambda: score_batched(model, one.hooked_layers(), groups)  # noqa: E731
    rows.append(one.row(work, "a forward per item, its options a batch", run, once))
    return rows, one.agreement


def compare_generation(model: DecoderOnly, groups: list[list[Any]], n_hooked: int) -> Any:
    one, work = Comparison(model, groups, n_hooked), "greedy texts"
    stopper = make_stopper(original_tokenizer(model))
    rows = [one.row(work, "a forward per token, no cache", one.reference, uncached_passes(one))]
    run = lambda: generate_cached(model, one.hooked_layers(), one.requests, stopper)  # noqa: E731
    once = one.stats.brute_force_token_passes
    rows.append(one.row(work, "a key-value cache per text", run, once))
    return rows, one.agreement


def uncached_passes(one: Comparison) -> int:
    """Token-passes of decoding that runs prompt and text anew for each token."""
    return one.model.cfg.n_layers * sum(
        len(asked.context) + step
        for texts in one.outcomes
        for asked, text in zip(one.requests, texts, strict=True)
        for step in range(len(text.tokens))
    )


def totals(scoring: Sequence[Row], generation: Sequence[Row]) -> list[Row]:
    """Both kinds of work: each by the reference, and each by its faster way with hooks."""
    ways = {
        "the first of each": (scoring[0], generation[0]),
        "the faster of each": [
            min(rows, key=lambda row: row.hooks.seconds) for rows in (scoring, generation)
        ],
    }
    return [
        Row("both", way, a.engine + b.engine, a.hooks + b.hooks) for way, (a, b) in ways.items()
    ]


def table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        ratios = (
            row.hooks.seconds / row.engine.seconds,
            row.hooks.cpu_seconds / row.engine.cpu_seconds,
            row.hooks.token_passes / row.engine.token_passes,
        )
        numbers = (row.hooks.seconds, row.engine.seconds, *ratios)
        lines.append([row.work, row.way, *(f"{number:.1f}" for number in numbers)])
    head = "work|with hooks|hooks, s|engine, s|ratio|of processor time|of token-passes"
    return markdown(head, lines, words=2)


def warm_up(model: DecoderOnly) -> None:
    """So that no side pays for what is set up at first use."""
    tokenizer = original_tokenizer(model)
    groups, (texts, *_) = ask(1, ("letter",), tokenizer), ask(1, ("generate",), tokenizer)
    for method in ("engine", "reference"):
        sweep(model, [intact(), skip(0)], [groups[0][0], *texts], method=method)
    score_batched(model, [None], groups[:1])
    generate_cached(model, [None], texts, make_stopper(tokenizer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4, help="items of each suite (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument(
        "--hooked", type=int, default=sys.maxsize,
        help="put hooks on so many models only, spread over the layers, and scale the seconds",
    )  # fmt: skip
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    where, model = machine(), load_model()
    tokenizer = original_tokenizer(model)
    warm_up(model)
    options = ask(wanted.items, ("letter", "continuation"), tokenizer)
    scoring, agreed = compare_scoring(model, options, wanted.hooked)
    texts = ask(wanted.items, ("generate",), tokenizer)
    generation, also = compare_generation(model, texts, wanted.hooked)
    agreed += also
    models = min(wanted.hooked, model.cfg.n_layers + 1)
    print(
        f"{wanted.items} items of each of {', '.join(SUITES)}; {model.cfg.n_layers + 1} models, "
        f"hooks timed on {models} of them.\n"
    )
    print(f"{table([*scoring, *generation, *totals(scoring, generation)])}\n\n{where}")
    print(
        f"{agreed.compared} outcomes compared: the same tokens, log-probabilities at most "
        f"{agreed.largest:.1e} nats apart ({agreed.by_rounding} by 1e-4 or more, by rounding)."
    )


if __name__ == "__main__":
    main()
