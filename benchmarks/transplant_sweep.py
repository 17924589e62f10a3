"""Each layer of one model put into another: loaded merged, exchanged one by one, and at one go.

Three ways of the same answers, log-likelihoods and greedy texts, to the same token ids. *Loaded*:
Hugging Face loads the base once for each layer, gets the layer's weights, and is asked by lm-eval
and ``generate``. *One by one*: a layer's weights are exchanged in memory, and the changed model is
asked by the engine from its first layer on. *At one go*: all layers are branches of one walk. No
ratio is printed unless all three agree, log-probabilities to 1e-4 nats a token and texts token for
token. The other model is the base with noise on all of its layers, in a folder of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from machine import machine
from measuring import Cost, markdown, spread, time_and_report
from pruned_ways import Harness, greedy_texts, load_original
from same_work import mean_gap, token_gap
from texts import distinct_prompts, scored_items
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from layerwise.analyses.transplant.exchange.spec import Change
from layerwise.analyses.transplant.exchange.weights import Exchange, use_donor_weights
from layerwise.models import DEFAULT_MODEL, load_model, original_tokenizer
from layerwise.models.names.sources import find_source
from layerwise.sweep import Generate, LogLikelihood, intact, sweep

CLOSE = 1e-4
NOISE = 0.05
WIDTH = 256
BATCH = 8


@dataclass(frozen=True)
class Pair:
    """Both models, as layerwise and as Hugging Face have them.

    Attributes:
        name: of the base.
        dtype: number format.
        host: the base.
        donor: the other.
        layers: the other's layers, as Hugging Face has them.
        tokenizer: of both.
    """

    name: str
    dtype: str
    host: Any
    donor: Any
    layers: Any
    tokenizer: Any


def random_llama(folder: str, n_layers: int) -> str:
    """A small Llama with random weights and the default model's tokenizer, in a folder."""
    tokenizer = AutoTokenizer.from_pretrained(find_source(DEFAULT_MODEL).folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH,
        num_hidden_layers=n_layers, num_attention_heads=WIDTH // 64, num_key_value_heads=2,
        max_position_embeddings=512, initializer_range=0.05, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def made_pair(name: str, dtype: str, folder: str) -> Pair:
    """The base, and the base with noise on every layer, whose size is a share of each weight's."""
    host = load_model(name, dtype=dtype)
    other, generator = load_original(name, dtype), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.model.layers.parameters():
            noise = torch.randn(weight.shape, generator=generator).to(weight.dtype)
            weight.add_(noise * weight.std(correction=0) * NOISE)
    other.save_pretrained(folder)
    original_tokenizer(host).save_pretrained(folder)
    donor = load_model(folder, dtype=dtype)
    return Pair(name, dtype, host, donor, other.model.layers, original_tokenizer(host))


def load_each_model(pair: Pair, layers: Sequence[int], requests: Sequence[Any]) -> list[list[Any]]:
    """A model loaded for each layer, as people merge and evaluate."""
    found = []
    for layer in layers:
        model = load_original(pair.name, pair.dtype)
        model.model.layers[layer].load_state_dict(pair.layers[layer].state_dict())
        if isinstance(requests[0], LogLikelihood):
            found.append(Harness(model, pair.tokenizer, BATCH).evaluate(requests))
        else:
            found.append(greedy_texts(model, requests, pair.tokenizer))
    return found


def sweep_each_model(pair: Pair, layers: Sequence[int], requests: Sequence[Any]) -> list[list[Any]]:
    """A sweep of each changed model."""
    found = []
    for layer in layers:
        with use_donor_weights(pair.host, pair.donor, "layer", [layer]):
            found += sweep(pair.host, [intact()], requests).outcomes
    return found


def at_one_go(pair: Pair, layers: Sequence[int], requests: Sequence[Any]) -> Any:
    """One sweep of all changes."""
    exchange = Exchange(pair.host, pair.donor)
    changes = [exchange.intervention(Change("single", "layer", (layer,))) for layer in layers]
    return sweep(pair.host, changes, requests)


def largest_gap(ours: Sequence[Sequence[Any]], theirs: Sequence[Sequence[Any]]) -> float:
    """Largest gap of two ways' log-probabilities, in nats a token; texts must be the same.

    Raises:
        SystemExit: they are further apart than ``CLOSE``, or a text differs.
    """
    largest = 0.0
    for mine, other in zip(chain(*ours), chain(*theirs), strict=True):
        if isinstance(other, tuple):
            if mine.tokens != other:
                raise SystemExit(f"Texts differ: {mine.tokens}, {other}.")
            continue
        told = len(getattr(other, "token_logprobs", ())) == 1
        largest = max(largest, (mean_gap if told else token_gap)(mine, other))
    if not largest <= CLOSE:
        raise SystemExit(f"Log-probabilities are {largest:.2g} nats a token apart.")
    return largest


def compare_ways(pair: Pair, work: str, requests: Sequence[Any], n_timed: int) -> list[list[str]]:
    """One kind of work by all three ways, as rows of the table."""
    n_layers = pair.host.cfg.n_layers
    few, every = spread(n_layers, n_timed), list(range(n_layers))
    at_one_go(pair, few, requests)  # So that nothing is set up while timed.
    swept, cost = time_and_report(f"{work}, at one go", lambda: at_one_go(pair, every, requests))
    ours, rows = [swept.outcomes[layer] for layer in few], []
    for way, run in (
        ("a merged model loaded for each", load_each_model),
        ("one by one", sweep_each_model),
    ):
        theirs, spent = time_and_report(f"{work}, {way}", lambda run=run: run(pair, few, requests))
        gap, scale = largest_gap(ours, theirs), n_layers / len(few)
        texts = isinstance(requests[0], Generate)
        agreement = "the same texts" if texts else f"{gap:.1e} nats apart at most"
        rows.append([work, way, agreement, *_seconds(spent, scale, cost)])
    return rows


def _seconds(spent: Cost, scale: float, cost: Cost) -> list[str]:
    return [
        f"{spent.seconds * scale:.1f}", f"{cost.seconds:.1f}",
        f"{spent.seconds * scale / cost.seconds:.1f}",
        f"{spent.cpu_seconds * scale / cost.cpu_seconds:.1f}",
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder, Llama-like")
    parser.add_argument(
        "--random", type=int, metavar="N",
        help=f"a random Llama of N layers and width {WIDTH} in the place of the model",
    )  # fmt: skip
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--options", type=int, default=4, help="options of an item (default 4)")
    parser.add_argument("--context", type=int, default=96, help="tokens (default 96)")
    parser.add_argument("--continuation", type=int, default=8, help="tokens (default 8)")
    parser.add_argument("--new", type=int, default=16, help="tokens of a text (default 16)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument(
        "--layers", type=int, default=sys.maxsize,
        help="run the other ways for so many layers only, spread over the model, and scale",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it runs")
    wanted = parser.parse_args(argv)
    if wanted.quick:
        wanted.items, wanted.options, wanted.context, wanted.continuation = 2, 2, 12, 3
        wanted.layers, wanted.new = 2, 4
    torch.set_num_threads(wanted.threads)
    where = machine("transformers", "lm-eval")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as base:
        name = random_llama(base, wanted.random) if wanted.random else wanted.model
        pair = made_pair(name, "float32", folder)
        scored: list[LogLikelihood] = list(
            chain(
                *scored_items(
                    pair.tokenizer, wanted.items, wanted.options, wanted.context,
                    wanted.continuation,
                )
            )
        )  # fmt: skip
        texts: list[Generate] = distinct_prompts(
            pair.tokenizer, wanted.items, wanted.context, wanted.new
        )
        rows = compare_ways(pair, "log-likelihood", scored, wanted.layers)
        rows += compare_ways(pair, f"{wanted.new} new tokens", texts, wanted.layers)
    n_layers = pair.host.cfg.n_layers
    named = f"A random Llama of width {WIDTH}" if wanted.random else wanted.model
    print(
        f"{named}: each of {n_layers} layers of another model put in, {wanted.items} "
        f"distinct items of {wanted.options} options, {wanted.context} + {wanted.continuation} "
        f"tokens, and as many prompts; the other ways timed and compared on "
        f"{min(n_layers, wanted.layers)} layers.\n"
    )
    head = "work|way|agreement|its time, s|at one go, s|ratio|of processor time"
    print(markdown(head, rows, words=3), end="\n\n")
    print(where)


if __name__ == "__main__":
    main()
