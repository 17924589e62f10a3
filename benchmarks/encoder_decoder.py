"""Every layer of an encoder-decoder skipped, by the engine and by pruned Hugging Face models.

The model is of flan-t5's class and sizes with random weights, which take as long as trained ones.
Log-likelihoods are had as lm-evaluation-harness has them, every option with its prompt in batches;
texts by Hugging Face ``generate`` with cached keys and values, all prompts as one batch. No ratio
is printed unless all outcomes agree as far as rounding allows (``same_work``).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from machine import machine
from measuring import markdown, spread, time_and_report
from same_work import check, check_texts
from torch import nn
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.families import PARTS_OF
from layerwise.sweep import Generate, LogLikelihood, Scored, skip, sweep

BATCH_SIZES = (4, 8, 32)


def random_t5(n_encoder: int, n_decoder: int, wanted: argparse.Namespace) -> Seq2SeqModel:
    """A model of flan-t5-small's width, loud enough that layers matter."""
    sizes: dict[str, Any] = {
        "vocab_size": wanted.vocab, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6,
        "num_layers": n_encoder, "num_decoder_layers": n_decoder,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    original = T5ForConditionalGeneration(T5Config(**sizes)).requires_grad_(False).eval()
    original.lm_head.weight = nn.Parameter(torch.randn(wanted.vocab, 512) / 8, requires_grad=False)
    parts = PARTS_OF["T5ForConditionalGeneration"](original)
    return Seq2SeqModel(original, parts, prefix=(0,), name="random flan-t5")


@contextmanager
def without_layer(model: Seq2SeqModel, layer: int) -> Iterator[Any]:
    """The Hugging Face model without one of its layers, until the block is left."""
    original, n_encoder = model.original, model.cfg.n_encoder_layers
    stack: Any = original.decoder if layer >= n_encoder else original.encoder
    at, blocks = layer - n_encoder * (layer >= n_encoder), stack.block
    kept = [block for index, block in enumerate(blocks) if index != at]
    if at == 0:  # The first block has the position bias of all.
        kept[0] = copy.deepcopy(kept[0])
        mine, first = kept[0].layer[0].SelfAttention, blocks[0].layer[0].SelfAttention
        mine.relative_attention_bias = first.relative_attention_bias
        mine.has_relative_attention_bias = True
    try:
        _set_blocks(stack, kept)
        yield original
    finally:
        _set_blocks(stack, blocks)


def _set_blocks(stack: Any, blocks: Any) -> None:
    stack.block = nn.ModuleList(blocks)
    for index, block in enumerate(blocks):
        # Which keys and values of the cache are its own.
        for part in block.layer[:-1]:
            attention = getattr(part, "SelfAttention", None) or part.EncDecAttention
            attention.layer_idx = index


@torch.inference_mode()
def score(
    model: Seq2SeqModel, layers: Sequence[int], requests: Sequence[LogLikelihood], size: int
) -> list[list[Scored]]:
    """Log-probabilities of each token, by layer and request."""
    found = []
    for layer in layers:
        rows: list[Scored] = []
        with without_layer(model, layer) as pruned:
            for start in range(0, len(requests), size):
                some = requests[start : start + size]
                said = [[*model.prefix, *one.continuation[:-1]] for one in some]
                tokens = torch.tensor([one.context for one in some])
                logits = pruned(
                    input_ids=tokens, decoder_input_ids=torch.tensor(said), use_cache=False
                ).logits
                answers = torch.tensor([one.continuation for one in some])
                logprobs = logits.log_softmax(-1).gather(2, answers[..., None])[..., 0]
                greedy = (logits.argmax(-1) == answers).tolist()
                rows += map(Scored, map(tuple, logprobs.tolist()), map(tuple, greedy))
        found.append(rows)
    return found


@torch.inference_mode()
def write(
    model: Seq2SeqModel, layers: Sequence[int], requests: Sequence[Generate]
) -> list[list[tuple[int, ...]]]:
    """Greedy tokens by layer and request."""
    how = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=requests[0].max_tokens, pad_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    tokens = torch.tensor([one.context for one in requests])
    found = []
    for layer in layers:
        with without_layer(model, layer) as pruned:
            pruned.generation_config.eos_token_id = None
            out = pruned.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=how
            )
        found.append([tuple(row) for row in out[:, 1:].tolist()])
    return found


def agreement(
    model: Seq2SeqModel, layers: Sequence[int], requests: Sequence[Any], ours: Any, theirs: Any
) -> str:
    """Both sides' outcomes compared, in words; ends the program if they disagree."""
    if isinstance(requests[0], Generate):
        texts = [[one.tokens for one in row] for row in ours]
        parted = check_texts(model, layers, requests, texts, theirs, None)
        tied = f" but for {parted} that part at a tie" if parted else ""
        return f"{len(layers) * len(requests)} texts, the same{tied}"
    agreed = check(model, [skip(layer) for layer in layers], requests, ours, theirs)
    return f"{agreed.largest:.1e} nats apart at most"


def compare(n_encoder: int, n_decoder: int, wanted: argparse.Namespace) -> list[list[str]]:
    """Rows of the table for one model."""
    model = random_t5(n_encoder, n_decoder, wanted)
    draw = torch.Generator().manual_seed(1)

    def drawn(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, wanted.vocab, (n,), generator=draw).tolist())

    prompts = [drawn(wanted.context) for _ in range(wanted.items)]
    scored = [
        LogLikelihood(prompt, drawn(wanted.continuation))
        for prompt in prompts
        for _ in range(wanted.options)
    ]
    texts = [Generate(prompt, wanted.new) for prompt in prompts]
    changes = [skip(layer) for layer in range(model.cfg.n_layers)]
    layers = spread(model.cfg.n_layers, wanted.layers)
    scale = model.cfg.n_layers / len(layers)
    tried = {
        size: time_and_report(
            f"batches of {size}", lambda size=size: score(model, layers[:1], scored, size)
        )
        for size in BATCH_SIZES
    }
    best = min(tried, key=lambda size: tried[size][1].seconds)
    rows = []
    for work, asked, run in (
        ("log-likelihood", scored, lambda: score(model, layers, scored, best)),
        (f"{wanted.new} new tokens", texts, lambda: write(model, layers, texts)),
    ):
        theirs, spent = time_and_report("pruned models", run)
        sweep(model, changes[:1], asked)
        swept, cost = time_and_report("engine", lambda asked=asked: sweep(model, changes, asked))
        agreed = agreement(model, layers, asked, [swept.outcomes[k] for k in layers], theirs)
        seconds, passes = spent.seconds * scale, swept.stats.brute_force_token_passes
        rows.append(
            [
                f"{n_encoder} + {n_decoder}", work, agreed, f"{seconds:.1f}",
                f"{cost.seconds:.1f}", f"{seconds / cost.seconds:.1f}",
                f"{spent.cpu_seconds * scale / cost.cpu_seconds:.1f}",
                f"{passes / swept.stats.token_passes:.1f}",
            ]
        )  # fmt: skip
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 12], help="of each stack")
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--options", type=int, default=4, help="options of an item (default 4)")
    parser.add_argument("--context", type=int, default=96, help="tokens (default 96)")
    parser.add_argument("--continuation", type=int, default=4, help="tokens (default 4)")
    parser.add_argument("--new", type=int, default=16, help="tokens of a text (default 16)")
    parser.add_argument("--vocab", type=int, default=32128)
    parser.add_argument("--layers", type=int, default=6, help="time so many pruned models")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it runs")
    wanted = parser.parse_args(argv)
    if wanted.quick:
        wanted.depths, wanted.items, wanted.context, wanted.vocab = [2], 2, 12, 300
        wanted.options, wanted.continuation, wanted.new, wanted.layers = 2, 2, 3, 4
    torch.set_num_threads(wanted.threads)
    where = machine("transformers")
    rows = [row for depth in wanted.depths for row in compare(depth, depth, wanted)]
    head = (
        "layers|work|agreement|pruned models, s|engine, s|ratio|of processor time|of token-passes"
    )
    print(markdown(head, rows, words=3))
    print(f"\n{where}")


if __name__ == "__main__":
    main()
