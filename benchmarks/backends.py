"""One decoder through both backends: a ``HookedTransformer``, and its own Hugging Face modules.

The engine does the same three works on the same weights, by turns: log-likelihoods and greedy
texts under every single-layer skip, and activation patching. No ratio is printed unless
log-probabilities agree to 1e-4 nats a token, or as far as rounding allows (``same_work``), and
texts token for token.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from machine import machine
from measuring import Cost, markdown, spread, time_and_report
from same_work import Agreement, check
from texts import distinct_prompts, scored_items

from layerwise.errors import UserError
from layerwise.models import DEFAULT_MODEL, load_model, original_tokenizer
from layerwise.sweep import Intervention, LogLikelihood, patch, skip, sweep

BACKENDS = ("transformer-lens", "hugging-face")
POSITIONS = 5
Work = tuple[str, Sequence[Intervention], Sequence[Any]]


def works(tokenizer: Any, n_layers: int, args: argparse.Namespace) -> list[Work]:
    """Works to do: a name, changes, and requests."""
    skips = [skip(layer) for layer in range(n_layers)]
    scored = scored_items(tokenizer, args.items, args.options, args.context, args.continuation)
    texts = distinct_prompts(tokenizer, args.items, args.context, args.tokens)
    (clean, *_), (corrupted, *_) = scored_items(tokenizer, 2, 1, args.context, 1)
    patches = [
        patch(site, layer, pos)
        for site in ("resid_pre", "attn_out", "mlp_out")
        for layer in range(n_layers)
        for pos in spread(args.context, POSITIONS)
    ]
    asked = LogLikelihood(corrupted.context, clean.continuation, clean.context)
    return [
        (f"log-likelihood, {args.items} items of {args.options} options", skips,
         [one for options in scored for one in options]),
        (f"{args.tokens} new tokens, {args.items} prompts", skips, texts),
        (f"patching, 3 sites x {n_layers} layers x {POSITIONS} positions", patches, [asked]),
    ]  # fmt: skip


def measure_models(
    models: Sequence[Any], work: Work, runs: int, kinds: Sequence[str] = BACKENDS
) -> tuple[list[Cost], Agreement]:
    """The median cost of each model, by processor time, and how far outcomes agree.

    Raises:
        SystemExit: if they are further apart than rounding explains.
    """
    name, changes, requests = work
    costs: list[list[Cost]] = [[] for _ in models]
    outcomes: list[Any] = [None for _ in models]
    for _ in range(runs):
        for i, (kind, model) in enumerate(zip(kinds, models, strict=True)):
            run: Callable[[], Any] = lambda model=model: sweep(model, changes, requests)  # noqa: E731
            swept, cost = time_and_report(f"{name}, {kind}", run)
            outcomes[i] = swept.outcomes
            costs[i].append(cost)
    agreement = check(models[0], changes, requests, *outcomes)
    middle = [
        next(c for c in each if c.cpu_seconds == median(one.cpu_seconds for one in each))
        for each in costs
    ]
    return middle, agreement


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--items", type=int, default=4)
    parser.add_argument("--options", type=int, default=4)
    parser.add_argument("--context", type=int, default=96)
    parser.add_argument("--continuation", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3, help="an odd number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a tiny size, to try it")
    args = parser.parse_args(argv)
    if args.quick:
        args.items, args.options, args.context, args.tokens, args.runs = 2, 2, 12, 3, 1
    torch.set_num_threads(args.threads)
    print(machine("transformers"))
    try:
        models = [load_model(args.model, backend=backend) for backend in BACKENDS]
    except UserError as refusal:
        sys.exit(str(refusal))
    rows = []
    for work in works(original_tokenizer(models[0]), models[0].cfg.n_layers, args):
        (hooked, own), agreement = measure_models(models, work, args.runs)
        rows.append([
            work[0], f"{agreement.largest:.0e}", f"{hooked.cpu_seconds:.1f}",
            f"{own.cpu_seconds:.1f}", f"{own.cpu_seconds / hooked.cpu_seconds:.2f}",
        ])  # fmt: skip
    head = "work|apart, nats|`HookedTransformer`, s|own modules, s|ratio"
    print(f"\nProcessor time, the median of {args.runs} runs by turns.\n")
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
