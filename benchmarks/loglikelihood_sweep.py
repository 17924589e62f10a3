"""Log-likelihoods under every single-layer skip: the engine, lm-eval, and hooked forwards.

All sides get the same token ids: distinct items that share nothing, each with some options.
lm-eval evaluates a Hugging Face model without the layer, at the batch size that is fastest here;
the hooked model is run with hooks, an item's options as one batch. No ratio is printed
unless the outcomes agree: in float32 to 1e-4 nats a token, or as far as rounding allows
(``same_work``); in bfloat16 the engine's mean error against float32 arithmetic on the same weights
must be at most 1.5 times the other side's. The engine's rate is compared with that of bare matrix
products of the very shapes that it used, timed in the same run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from hooked_ways import score_batched
from machine import machine
from measuring import markdown, spread, time_and_report
from products import ProductCounter, product_rate
from pruned_ways import Harness, load_original
from same_work import check, check_errors, in_dtype, mean_gap, token_gap
from texts import scored_items

from layerwise.models import DEFAULT_MODEL, load_model, original_tokenizer
from layerwise.models.decoder import DecoderModel
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.sweep import LogLikelihood, Scored, skip, sweep

BATCH_SIZES = (1, 4, 8, 32)
Outcomes = Sequence[Sequence[Scored]]


@dataclass(frozen=True)
class Side:
    """Another way of doing the engine's work.

    Attributes:
        way: its name.
        seconds: for all layers, scaled if only some were timed.
        outcomes: by timed layer and request.
    """

    way: str
    seconds: float
    outcomes: Outcomes


def lm_eval_side(
    original: Any, tokenizer: Any, requests: list[LogLikelihood], layers: list[int], scale: float
) -> Side:
    """A pruned Hugging Face model per layer, at the batch size that was fastest for one layer."""
    spent = {}
    for size in BATCH_SIZES:
        harness = Harness(original, tokenizer, size)
        run = lambda: harness.score(layers[:1], requests)  # noqa: B023, E731
        spent[size] = time_and_report(f"lm-eval, one layer, batch size {size}", run)[1].seconds
    best = min(spent, key=lambda size: spent[size])
    harness = Harness(original, tokenizer, best)
    outcomes, cost = time_and_report("lm-eval", lambda: harness.score(layers, requests))
    return Side(f"lm-eval, batch size {best}", cost.seconds * scale, outcomes)


def hooked_side(
    model: DecoderOnly, groups: list[list[LogLikelihood]], layers: list[int], scale: float
) -> Side:
    """``run_with_hooks`` per layer and item."""
    score_batched(model, layers[:1], groups)  # So that nothing is set up while timed.
    outcomes, cost = time_and_report("hooks", lambda: score_batched(model, layers, groups))
    return Side("hooked forwards, options as a batch", cost.seconds * scale, outcomes)


def agreement(
    model: DecoderOnly,
    layers: list[int],
    requests: list[LogLikelihood],
    ours: Outcomes,
    side: Side,
) -> str:
    """Both sides' outcomes compared, in words; ends the program if they disagree."""
    if model.W_E.dtype == torch.float32:
        told = len(side.outcomes[0][0].token_logprobs)
        gap = token_gap if told == len(requests[0].continuation) else mean_gap
        found = check(model, [skip(k) for k in layers], requests, ours, side.outcomes, gap)
        return f"{found.largest:.1e} nats apart at most, {found.by_rounding} by rounding"
    exact = in_dtype(model, torch.float32)
    truth = sweep(exact, [skip(layer) for layer in layers], requests).outcomes
    errors = check_errors(_distances(truth, ours), _distances(truth, side.outcomes))
    return f"mean error {errors.engine:.3f} nats, the other side {errors.other:.3f}"


def _distances(truth: Outcomes, outcomes: Outcomes) -> list[float]:
    return [
        abs(a.logprob - b.logprob) for a, b in zip(chain(*truth), chain(*outcomes), strict=True)
    ]


def needed_operations(
    model: DecoderOnly, requests: list[LogLikelihood], token_passes: int, n_changes: int
) -> tuple[float, float]:
    """Floating-point operations for that many token-passes: with weights, and in attention.

    Two for each multiplication and addition. Attention is counted over the keys that a token
    may see, the unembedding once for each change and distinct position that is read.
    """
    cfg: Any = model.cfg
    seen, read = set(), set()
    for one in requests:
        tokens = one.context + one.continuation
        seen.update(tokens[:n] for n in range(1, len(tokens)))
        read.update(tokens[:n] for n in range(len(one.context), len(tokens)))
    matrices = _weights_of_block(model)
    per_pass = sum(4 * cfg.n_heads * cfg.d_head * len(run) for run in seen) / len(seen)
    unembedding = n_changes * len(read) * cfg.d_model * cfg.d_vocab
    return 2.0 * (token_passes * matrices + unembedding), token_passes * per_pass


def _weights_of_block(model: DecoderOnly) -> int:
    """Numbers in the matrices of a block, all of which a token is multiplied by."""
    if isinstance(model, DecoderModel):
        modules = model.parts.blocks[0].modules()
        return sum(p.numel() for module in modules for p in module.parameters() if p.ndim > 1)
    named = model.blocks[0].named_parameters()
    return sum(p.numel() for name, p in named if name.split(".")[-1].lstrip("_")[:2] == "W_")


def rates(
    model: DecoderOnly, requests: list[LogLikelihood], n_changes: int, stats: Any,
    seconds: float, made: ProductCounter,
) -> str:  # fmt: skip
    """The engine's rate against that of bare products of the same shapes, as a table."""
    weights, attention = needed_operations(model, requests, stats.token_passes, n_changes)
    # What was not needed does not count, nor what was not done.
    done = min(weights, made.operations) + attention
    rate, bare = done / seconds / 1e9, product_rate(made.shapes, model.W_E.dtype) / 1e9
    head = (
        "token-passes|by brute force|operations, TFLOP|of them attention|engine, s|"
        "engine, GFLOP/s|bare products, GFLOP/s|share"
    )
    numbers = [
        f"{stats.token_passes:,}", f"{stats.brute_force_token_passes:,}", f"{done / 1e12:.3f}",
        f"{attention / done:.1%}", f"{seconds:.1f}", f"{rate:.1f}", f"{bare:.1f}",
        f"{rate / bare:.0%}",
    ]  # fmt: skip
    most = [f"{'x'.join(map(str, shape))} ({times})" for shape, times in made.largest(4)]
    return f"{markdown(head, [numbers], words=0)}\n\nLargest products: {', '.join(most)}."


def comparison(wanted: argparse.Namespace) -> None:
    model = load_model(wanted.model, dtype=wanted.dtype)
    tokenizer, n_layers = original_tokenizer(model), model.cfg.n_layers
    groups = scored_items(
        tokenizer, wanted.items, wanted.options, wanted.context, wanted.continuation
    )
    requests, changes = list(chain(*groups)), [skip(layer) for layer in range(n_layers)]
    with ProductCounter() as made:  # The warm-up, too.
        sweep(model, changes, requests)
    swept, cost = time_and_report("engine", lambda: sweep(model, changes, requests))
    layers = spread(n_layers, wanted.layers)
    scale, ours = n_layers / len(layers), [swept.outcomes[layer] for layer in layers]
    original = load_original(wanted.model, wanted.dtype)
    sides = [
        lm_eval_side(original, tokenizer, requests, layers, scale),
        hooked_side(model, groups, layers, scale),
    ]
    rows = [
        [
            side.way, agreement(model, layers, requests, ours, side), f"{side.seconds:.1f}",
            f"{cost.seconds:.1f}", f"{side.seconds / cost.seconds:.1f}",
        ]
        for side in sides
    ]  # fmt: skip
    print(
        f"{wanted.model} in {wanted.dtype}: {n_layers} layers skipped one by one, {wanted.items} "
        f"distinct items of {wanted.options} options, {wanted.context} + {wanted.continuation} "
        f"tokens; the other sides timed and compared on {len(layers)} layers.\n"
    )
    print(markdown("way|agreement|its time, s|engine, s|ratio", rows, words=2), end="\n\n")
    print(rates(model, requests, len(changes), swept.stats, cost.seconds, made))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder, Llama-like")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--options", type=int, default=4, help="options of an item (default 4)")
    parser.add_argument("--context", type=int, default=96, help="tokens (default 96)")
    parser.add_argument("--continuation", type=int, default=8, help="tokens (default 8)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument(
        "--layers", type=int, default=sys.maxsize,
        help="run the other sides for so many layers only, spread over the model, and scale",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it runs")
    wanted = parser.parse_args(argv)
    if wanted.quick:
        wanted.items, wanted.options, wanted.context, wanted.continuation = 2, 2, 12, 3
        wanted.layers = 2
    torch.set_num_threads(wanted.threads)
    where = machine("transformers", "lm-eval")
    comparison(wanted)
    print(f"\n{where}")


if __name__ == "__main__":
    main()
