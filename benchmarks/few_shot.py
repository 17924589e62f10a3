"""Gain of sharing few-shot examples: all items in one sweep against a sweep for each item.

Both sides are the engine, so that trunk and branches, and the prompt that the options of an item
share, are the same on both; only in one sweep are the examples that all items begin with run once.
Items, stop strings and lengths are the suites' own. No ratio is printed unless the outcomes agree:
log-probabilities to 1e-4 nats or as far as rounding allows (``same_work``), texts token for token
but where they part at a tie.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from machine import machine
from measuring import markdown, spread, time_and_report
from same_work import check, check_texts
from texts import shared_prefix, with_shots

from layerwise.models import DEFAULT_MODEL, load_model, original_tokenizer
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.sweep import SweepStats, skip, sweep
from layerwise.tasks import PROTOCOLS, Task, build_requests

SUITES = ("facts", "arithmetic", "word-problems")


def compare(model: DecoderOnly, task: Task, protocol: str, layers: list[int]) -> list[str]:
    """A row of the table: one suite under one protocol."""
    tokenizer, changes = original_tokenizer(model), [skip(layer) for layer in layers]
    groups = [
        [one.request for one in build_requests(task, item, protocol, tokenizer)]
        for item in task.items
    ]
    requests, name = list(chain(*groups)), f"{task.name}, {protocol}"
    sweep(model, changes[-1:], requests[:1])  # Warm-up.
    shared, once = time_and_report(f"{name}, at once", lambda: sweep(model, changes, requests))
    apart, each = time_and_report(
        f"{name}, by item", lambda: [sweep(model, changes, g) for g in groups]
    )
    by_item = [
        list(chain(*(one.outcomes[index] for one in apart))) for index in range(len(changes))
    ]
    agreed = agreement(model, layers, requests, shared.outcomes, by_item)
    passes = sum((one.stats for one in apart), SweepStats()).token_passes
    ours = shared.stats.token_passes
    contexts = [one.context for one in requests]
    length = sum(map(len, contexts)) / len(contexts)
    return [
        task.name, protocol, agreed, f"{shared_prefix(contexts)} of {length:.0f}",
        f"{passes:,}", f"{ours:,}", f"{passes / ours:.1f}",
        f"{each.seconds:.1f}", f"{once.seconds:.1f}", f"{each.seconds / once.seconds:.1f}",
    ]  # fmt: skip


def agreement(
    model: DecoderOnly, layers: list[int], requests: list[Any], ours: Any, theirs: Any
) -> str:
    """Outcomes compared, in words; ends the program if they disagree."""
    if hasattr(requests[0], "max_tokens"):
        end = original_tokenizer(model).eos_token_id
        texts = [[[one.tokens for one in row] for row in side] for side in (ours, theirs)]
        parted = check_texts(model, layers, requests, *texts, end)
        return f"the same texts, but for {parted} that part at a tie"
    found = check(model, [skip(layer) for layer in layers], requests, ours, theirs)
    return f"{found.largest:.1e} nats apart at most, {found.by_rounding} by rounding"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder")
    parser.add_argument("--items", type=int, default=16, help="of each suite (default 16)")
    parser.add_argument("--shots", type=int, default=4, help="few-shot examples (default 4)")
    parser.add_argument(
        "--layers", type=int, default=sys.maxsize,
        help="skip so many layers only, spread over the model, on both sides (default all)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it runs")
    wanted = parser.parse_args(argv)
    suites = SUITES
    if wanted.quick:
        wanted.items, wanted.shots, wanted.layers, suites = 2, 1, 2, SUITES[1:2]
    torch.set_num_threads(wanted.threads)
    where, model = machine(), load_model(wanted.model)
    layers = spread(model.cfg.n_layers, wanted.layers)
    tasks = [with_shots(name, wanted.shots, wanted.items) for name in suites]
    rows = [compare(model, task, protocol, layers) for task in tasks for protocol in PROTOCOLS]
    print(
        f"{wanted.model}: {len(layers)} layers skipped one by one, {wanted.items} items of each "
        f"suite, {wanted.shots} examples.\n"
    )
    head = (
        "suite|protocol|agreement|shared tokens of a prompt|token-passes by item|at once|ratio|"
        "by item, s|at once, s|ratio"
    )
    print(f"{markdown(head, rows, words=3)}\n\n{where}")


if __name__ == "__main__":
    main()
