"""Ablation of every head: one sweep against a hooked forward per head and item.

Distinct items of equal lengths; the options of an item are one batch of the hooked side. What
both sides found is compared before any ratio is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from hooked_ways import head_hooks, score_hooked
from machine import machine
from measuring import markdown, time_and_report
from same_work import check
from texts import scored_items

from layerwise.models import DEFAULT_MODEL, load_model, original_tokenizer
from layerwise.sweep import sweep, zero


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--items", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="short items, to try the script")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(wanted.threads)
    model = load_model(wanted.model)
    context, continuation = (12, 2) if wanted.quick else (96, 8)
    tokenizer = original_tokenizer(model)
    groups = scored_items(tokenizer, wanted.items, 4, context, continuation)
    requests = [request for group in groups for request in group]
    places = [(k, h) for k in range(model.cfg.n_layers) for h in range(model.cfg.n_heads)]
    changes = [zero("z", layer, head) for layer, head in places]
    sweep(model, changes[:1], requests)  # So that nothing is set up while timed.
    ours, engine = time_and_report("engine", lambda: sweep(model, changes, requests))
    hooks = [head_hooks(layer, head) for layer, head in places]
    theirs, hooked = time_and_report("hooks", lambda: score_hooked(model, hooks, groups))
    agreed = check(model, changes, requests, ours.outcomes, theirs)
    stats = ours.stats
    head = "heads|items x options|token-passes|fewer|engine, s|hooks, s|ratio"
    row = [
        str(len(places)), f"{wanted.items} x 4", f"{stats.token_passes:,}",
        f"{stats.brute_force_token_passes / stats.token_passes:.1f}", f"{engine.seconds:.1f}",
        f"{hooked.seconds:.1f}", f"{hooked.seconds / engine.seconds:.1f}",
    ]  # fmt: skip
    print(machine())
    print(markdown(head, [row], words=2))
    print(f"The two sides are {agreed.largest:.1e} nats apart at most.")


if __name__ == "__main__":
    main()
