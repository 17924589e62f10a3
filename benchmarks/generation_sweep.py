"""Greedy texts under every single-layer skip: the engine against Hugging Face's ``generate``.

The same prompts as token ids, the same number of new tokens, no stop strings. Hugging Face removes
the layer, keeps keys and values, and decodes all prompts as one batch (padded on the left where
their lengths differ); a batch is over when its last text is. Prompts are distinct, or with
``--few-shot`` those of a suite with examples that all of them share. No ratio is printed unless
both sides' texts agree: in float32 token for token, but where texts part at tokens that are
equally likely to 1e-4 nats in float64; in bfloat16, where texts part at every rounding, the
engine's tokens must fall short of the likeliest one (as float32 arithmetic on the same weights and
text has it) by at most 1.5 times as much as the other side's in the mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import torch
from machine import machine
from measuring import Cost, markdown, spread, time_and_report
from pruned_ways import generate, load_original
from same_work import Tokens, check_errors, check_texts, in_dtype, shortfalls
from texts import distinct_prompts, few_shot_prompts, shared_prefix, with_shots

from layerwise.models import DEFAULT_MODEL, load_model, original_tokenizer
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.sweep import Generate, skip, sweep

SUITE = "word-problems"
Texts = Sequence[Sequence[Tokens]]


@dataclass(frozen=True)
class Engine:
    """Work of the engine, and how much of it was decoding.

    Attributes:
        texts: by layer and request.
        cost: of all of it.
        prompt_seconds: of the same with one new token, which the prompts' walk gives.
        new_tokens: decoded ones: all but the first of each text, which the prompt gives.
        passes: rows of decoding steps; each gives one new token, or more if a draft is confirmed.
        pushed: tokens pushed through all layers in them, drafts that were refused included.
    """

    texts: Texts
    cost: Cost
    prompt_seconds: float
    new_tokens: int
    passes: int
    pushed: float


def by_engine(model: DecoderOnly, layers: Sequence[int], requests: list[Generate]) -> Engine:
    changes = [skip(layer) for layer in layers]
    prompts = [replace(one, max_tokens=1) for one in requests]
    first, walk = time_and_report("engine, prompts only", lambda: sweep(model, changes, prompts))
    swept, cost = time_and_report("engine", lambda: sweep(model, changes, requests))
    texts = [[one.tokens for one in of_layer] for of_layer in swept.outcomes]
    # A text that is shorter ended with an end token, which it leaves out.
    new_tokens = sum(min(len(text), requests[0].max_tokens - 1) for text in chain(*texts))
    pushed = (swept.stats.token_passes - first.stats.token_passes) / model.cfg.n_layers
    return Engine(texts, cost, walk.seconds, new_tokens, swept.stats.row_passes, pushed)


def by_generate(
    original: Any, layers: Sequence[int], requests: list[Generate], tokenizer: Any
) -> tuple[Texts, dict[int, float]]:
    """Texts by layer and request, and seconds of each layer."""
    generate(original, layers[0], [replace(one, max_tokens=2) for one in requests], tokenizer)
    texts, seconds = [], {}
    for layer in layers:
        run = lambda: generate(original, layer, requests, tokenizer)  # noqa: B023, E731
        of_layer, cost = time_and_report(f"generate without layer {layer}", run)
        texts.append(of_layer)
        seconds[layer] = cost.seconds
    return texts, seconds


def agreement(
    model: DecoderOnly,
    layers: list[int],
    requests: list[Generate],
    ours: Texts,
    theirs: Texts,
) -> str:
    """Both sides' texts compared, in words; ends the program if they disagree."""
    compared = len(layers) * len(requests)
    if model.W_E.dtype == torch.float32:
        end = original_tokenizer(model).eos_token_id
        parted = check_texts(model, layers, requests, ours, theirs, end)
        return f"{compared} texts the same, but for {parted} that part at a tie"
    exact = in_dtype(model, torch.float32)
    pairs = [(layer, asked) for layer in layers for asked in requests]

    def short(texts: Texts) -> list[float]:
        given = zip(pairs, chain(*texts), strict=True)
        return [s for pair, text in given if text for s in shortfalls(exact, *pair, text)]

    errors = check_errors(short(ours), short(theirs))
    same = sum(a == b for a, b in zip(chain(*ours), chain(*theirs), strict=True))
    return (
        f"{same} of {compared} texts the same; tokens fall short of the likeliest by "
        f"{errors.engine:.4f} nats in the mean, the other side's by {errors.other:.4f}"
    )


def row(name: str, engine: Engine, generate_seconds: float) -> list[str]:
    return [
        name, f"{generate_seconds:.1f}", f"{engine.cost.seconds:.1f}",
        f"{engine.prompt_seconds:.1f}", f"{generate_seconds / engine.cost.seconds:.1f}",
        f"{engine.new_tokens / engine.passes:.2f}", f"{engine.pushed / engine.new_tokens:.2f}",
    ]  # fmt: skip


def by_group(
    model: DecoderOnly, requests: list[Generate], seconds: dict[int, float], n_groups: int
) -> list[list[str]]:
    """Neighbouring layers, each group swept on its own; groups without a timed layer are left."""
    n_layers, rows = model.cfg.n_layers, []
    bounds = [round(i * n_layers / n_groups) for i in range(n_groups + 1)]
    for begin, end in pairwise(bounds):
        known = [spent for layer, spent in seconds.items() if begin <= layer < end]
        if known:
            engine = by_engine(model, range(begin, end), requests)
            whole = sum(known) / len(known) * (end - begin)
            rows.append(row(f"layers {begin} to {end - 1} alone", engine, whole))
    return rows


def ask(wanted: argparse.Namespace, tokenizer: Any) -> tuple[list[Generate], str]:
    """The prompts, and what they are in words."""
    if wanted.few_shot is None:
        asked = distinct_prompts(tokenizer, wanted.items, wanted.context, wanted.new)
        return asked, f"{wanted.items} distinct prompts of {wanted.context} tokens"
    task = with_shots(SUITE, wanted.few_shot, wanted.items)
    asked = few_shot_prompts(tokenizer, task, wanted.items, wanted.new)
    lengths = [len(one.context) for one in asked]
    return asked, (
        f"{wanted.items} prompts of {SUITE} with {wanted.few_shot} examples, {min(lengths)} to "
        f"{max(lengths)} tokens, {shared_prefix([one.context for one in asked])} of them shared"
    )


def comparison(wanted: argparse.Namespace) -> None:
    model = load_model(wanted.model, dtype=wanted.dtype)
    tokenizer, n_layers = original_tokenizer(model), model.cfg.n_layers
    requests, asked = ask(wanted, tokenizer)
    sweep(model, [skip(0)], [replace(one, max_tokens=3) for one in requests])  # Warm-up.
    engine = by_engine(model, range(n_layers), requests)
    layers = spread(n_layers, wanted.layers)
    original = load_original(wanted.model, wanted.dtype)
    theirs, seconds = by_generate(original, layers, requests, tokenizer)
    agreed = agreement(model, layers, requests, [engine.texts[k] for k in layers], theirs)
    print(
        f"{wanted.model} in {wanted.dtype}: {n_layers} layers skipped one by one, {asked}, "
        f"{wanted.new} new tokens; generate timed and compared on {len(layers)} layers: {agreed}.\n"
    )
    rows = [row("all layers", engine, sum(seconds.values()) * n_layers / len(layers))]
    rows += by_group(model, requests, seconds, wanted.groups) if wanted.groups else []
    head = (
        "skipped|generate, s|engine, s|of it prompts, s|ratio|new tokens a pass|"
        "pushed tokens a new one"
    )
    print(markdown(head, rows))
    ended = sum(len(text) < wanted.new for text in chain(*engine.texts))
    print(
        f"\n{ended} of {n_layers * len(requests)} texts of the engine ended before {wanted.new} "
        "tokens. A pass is a row of a decoding step; new tokens are those after a text's first; "
        "pushed are the tokens that went through all layers in decoding."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder, Llama-like")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--context", type=int, default=96, help="tokens of a distinct prompt")
    parser.add_argument("--new", type=int, default=32, help="new tokens (default 32)")
    parser.add_argument(
        "--few-shot", type=int, nargs="?", const=4, metavar="SHOTS",
        help="prompts with so many examples instead of distinct ones (4 if no number is given)",
    )  # fmt: skip
    parser.add_argument(
        "--groups", type=int, default=3,
        help="also sweep so many groups of neighbouring layers on their own (default 3; 0: none)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument(
        "--layers", type=int, default=sys.maxsize,
        help="run generate for so many layers only, spread over the model, and scale",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it runs")
    wanted = parser.parse_args(argv)
    if wanted.quick:
        wanted.items, wanted.context, wanted.new, wanted.layers, wanted.groups = 2, 12, 4, 2, 2
    torch.set_num_threads(wanted.threads)
    where = machine("transformers")
    comparison(wanted)
    print(f"\n{where}")


if __name__ == "__main__":
    main()
