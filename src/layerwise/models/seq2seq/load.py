"""From a Hugging Face encoder-decoder to a hooked one that is known to equal it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError
from layerwise.models.conversion.parity import (
    Exact,
    LogProbs,
    exact,
    farthest,
    logprobs_of,
    must_run,
    refuse_difference,
    token_ids,
)

from .families import PARTS_OF
from .model import Seq2SeqModel

Tokens = tuple[int, ...]


def hooked_seq2seq(
    original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> Seq2SeqModel:
    """The hooked model over an original, whose weights it uses."""
    prefix = decoder_prefix(original, tokenizer, name)
    parts = PARTS_OF[type(original).__name__](original)
    return Seq2SeqModel(original, parts, prefix=prefix, name=name, tokenizer=tokenizer)


def decoder_prefix(
    original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> tuple[int, ...]:
    """The tokens with which the decoder begins before an answer."""
    # The start token; then the token that generation is forced to begin with, if there is one, or
    # else what the tokenizer puts before a target text (BART's ``<s>``), as in training.
    config: Any = original.generation_config
    # a configuration that was saved without it may have no such field at all
    of_model = getattr(original.config, "decoder_start_token_id", None)
    own = config.decoder_start_token_id
    start = of_model if own is None else own
    if start is None:
        raise UserError(
            f"Model {name!r} does not say with which token its decoder begins: expected "
            "decoder_start_token_id in config.json or generation_config.json; add it (for a "
            "multilingual model the token of the language to write)."
        )
    if config.forced_bos_token_id is not None:
        return int(start), int(config.forced_bos_token_id)
    return int(start), *_put_before(tokenizer)


def _put_before(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Special tokens that a tokenizer puts before a target text."""
    whole = list(tokenizer(text_target="a").input_ids)
    bare = list(tokenizer(text_target="a", add_special_tokens=False).input_ids)
    affixes = around(bare, whole)
    return () if affixes is None else affixes[0]


def around(plain: Sequence[int], whole: Sequence[int]) -> tuple[Tokens, Tokens] | None:
    """Tokens before and after the first occurrence of a sequence; None without one."""
    size = len(plain)
    for start in range(len(whole) - size + 1):
        if size and tuple(whole[start : start + size]) == tuple(plain):
            return tuple(whole[:start]), tuple(whole[start + size :])
    return None


Pair = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def texts_of(model: Seq2SeqModel, tokenizer: PreTrainedTokenizerBase) -> list[Pair]:
    """Inputs, masks and what the decoder has said, in several lengths; the last are padded."""
    ids = token_ids(tokenizer, min(model.cfg.n_ctx, 100) - len(model.prefix))
    half = max(len(ids) // 2, 1)
    # A decoder may have fewer words than the encoder.
    decoded = [*model.prefix, *[index % model.cfg.d_vocab for index in ids[: half + 1]]]
    pairs = []
    for length in sorted({1, half, len(ids)}):
        tokens = torch.tensor([ids[:length]])
        pairs.append((tokens, torch.ones_like(tokens), torch.tensor([decoded[: length + 1]])))
    mask = torch.ones(2, len(ids), dtype=torch.long)
    mask[1, half:] = 0
    pairs.append((torch.tensor([ids, ids]), mask, torch.tensor([decoded, decoded])))
    return pairs


def expected_logprobs(model: Seq2SeqModel, tokenizer: PreTrainedTokenizerBase) -> list[LogProbs]:
    """Log-probabilities of the Hugging Face model on a fixed text."""
    original: Any = model.original
    with must_run(model.cfg.model_name):
        return logprobs_of_texts(original, texts_of(model, tokenizer))


@torch.inference_mode()
def logprobs_of_texts(original: PreTrainedModel, texts: list[Pair]) -> list[LogProbs]:
    """Log-probabilities of a Hugging Face model on some texts."""
    every_logits = [
        original(
            input_ids=tokens.to(original.device),
            attention_mask=mask.to(original.device),
            decoder_input_ids=decoded.to(original.device),
            use_cache=False,
        ).logits
        for tokens, mask, decoded in texts
    ]
    return [logprobs_of(logits) for logits in every_logits]


def checked(
    model: Seq2SeqModel, tokenizer: PreTrainedTokenizerBase, expected: list[LogProbs]
) -> float:
    """Largest difference from expected log-probabilities on the fixed text, in nats."""
    original: Any = model.original
    texts = texts_of(model, tokenizer)
    with must_run(model.cfg.model_name):
        given = _logprobs_of_hooked(model, texts)
    difference = farthest(given, expected)

    def from_exact() -> tuple[float, Exact]:
        truth = exact(original, lambda network: logprobs_of_texts(network, texts))
        return farthest(given, truth.logprobs), truth

    refuse_difference(model.cfg.model_name, difference, model.W_E.dtype, from_exact)
    return difference


@torch.inference_mode()
def _logprobs_of_hooked(model: Seq2SeqModel, texts: list[Pair]) -> list[LogProbs]:
    device = model.W_E.device
    return [
        logprobs_of(model(tokens.to(device), decoded.to(device), mask.bool().to(device)))
        for tokens, mask, decoded in texts
    ]
