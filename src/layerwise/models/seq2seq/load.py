"""From a Hugging Face encoder-decoder to a hooked one that is known to equal it.

Where files come from is told in ``models.load``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError
from layerwise.models.parity import must_run, refuse_difference, token_ids
from layerwise.models.seq2seq.families import PARTS_OF
from layerwise.models.seq2seq.model import Seq2SeqModel

Tokens = tuple[int, ...]


def hooked_seq2seq(
    original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> Seq2SeqModel:
    """The hooked model over an original, whose weights it uses.

    Raises:
        UserError: if it is not told with which token the decoder begins.
    """
    prefix = decoder_prefix(original, tokenizer, name)
    parts = PARTS_OF[type(original).__name__](original)
    return Seq2SeqModel(original, parts, prefix=prefix, name=name, tokenizer=tokenizer)


def decoder_prefix(
    original: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> tuple[int, ...]:
    """The tokens with which the decoder begins before an answer.

    The start token; then the token that generation is forced to begin with, if there is one,
    or else what the tokenizer puts before a target text (BART's ``<s>``), as in training.

    Raises:
        UserError: if there is no start token.
    """
    config: Any = original.generation_config
    start = _first(config.decoder_start_token_id, original.config.decoder_start_token_id)
    if start is None:
        raise UserError(
            f"Model {name!r} does not say with which token its decoder begins: expected "
            "decoder_start_token_id in config.json or generation_config.json; add it (for a "
            "multilingual model the token of the language to write)."
        )
    if config.forced_bos_token_id is not None:
        return int(start), int(config.forced_bos_token_id)
    return int(start), *_put_before(tokenizer)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _put_before(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Special tokens that a tokenizer puts before a target text."""
    whole = list(tokenizer(text_target="a").input_ids)
    bare = list(tokenizer(text_target="a", add_special_tokens=False).input_ids)
    found = around(bare, whole)
    return () if found is None else found[0]


def around(plain: Sequence[int], whole: Sequence[int]) -> tuple[Tokens, Tokens] | None:
    """What stands before and after some tokens where they are found first; None if nowhere."""
    size = len(plain)
    for start in range(len(whole) - size + 1):
        if size and tuple(whole[start : start + size]) == tuple(plain):
            return tuple(whole[:start]), tuple(whole[start + size :])
    return None


Pair = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _texts(model: Seq2SeqModel, tokenizer: PreTrainedTokenizerBase) -> list[Pair]:
    """Inputs, masks and what the decoder has said, in several lengths; the last are padded."""
    ids = token_ids(tokenizer, min(model.cfg.n_ctx, 100) - len(model.prefix))
    half = max(len(ids) // 2, 1)
    # A decoder may have fewer words than the encoder.
    said = [*model.prefix, *[index % model.cfg.d_vocab for index in ids[: half + 1]]]
    pairs = []
    for length in sorted({1, half, len(ids)}):
        tokens = torch.tensor([ids[:length]])
        pairs.append((tokens, torch.ones_like(tokens), torch.tensor([said[: length + 1]])))
    mask = torch.ones(2, len(ids), dtype=torch.long)
    mask[1, half:] = 0
    pairs.append((torch.tensor([ids, ids]), mask, torch.tensor([said, said])))
    return pairs


@torch.inference_mode()
def expected_logprobs(
    model: Seq2SeqModel, tokenizer: PreTrainedTokenizerBase
) -> list[Float[torch.Tensor, "_ _ d_vocab"]]:
    """Log-probabilities of the Hugging Face model on a fixed text."""
    with must_run(model.cfg.model_name):
        found = [
            model.original(
                input_ids=tokens.to(model.W_E.device),
                attention_mask=mask.to(model.W_E.device),
                decoder_input_ids=said.to(model.W_E.device),
                use_cache=False,
            ).logits
            for tokens, mask, said in _texts(model, tokenizer)
        ]
    return [logits.float().log_softmax(-1).cpu() for logits in found]


@torch.inference_mode()
def checked(
    model: Seq2SeqModel,
    tokenizer: PreTrainedTokenizerBase,
    expected: list[Float[torch.Tensor, "_ _ d_vocab"]],
) -> float:
    """Largest difference from expected log-probabilities on the fixed text, in nats.

    Raises:
        UserError: if the model does not run or differs by too much.
    """
    worst, device = 0.0, model.W_E.device
    with must_run(model.cfg.model_name):
        for (tokens, mask, said), wanted in zip(_texts(model, tokenizer), expected, strict=True):
            logits = model(tokens.to(device), said.to(device), mask.bool().to(device))
            difference = (logits.float().log_softmax(-1).cpu() - wanted).abs().max().item()
            worst = math.inf if math.isnan(difference) else max(worst, difference)
    refuse_difference(model.cfg.model_name, worst, model.W_E.dtype)
    return worst
