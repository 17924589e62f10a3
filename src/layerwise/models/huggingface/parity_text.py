"""The fixed text on which a hooked model is compared with its original, as tokens."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from layerwise.models.seq2seq.model import Seq2SeqModel

TEXT = (
    "The museum opened in 1897, three years after the old bridge had burned down. Visitors "
    "paid 25 cents; children got in free. (On Sundays, it was closed.) Anna asked: 'Why is the "
    "sea salty?' Because rivers carry salt, her uncle said, and the sea keeps it. If x = 12 and "
    "y = 30, then x + y = 42. Der Zug fährt um acht Uhr ab, and the last one leaves at midnight."
)
MAX_TOKENS = 100
_MIXING = 7919  # a prime above any toy vocabulary, so that no id comes twice

Text = dict[str, torch.Tensor]
"""Inputs of a Hugging Face model, by its names for them."""


def token_ids(tokenizer: PreTrainedTokenizerBase, n_ctx: int) -> list[int]:
    """Token ids of the fixed text, at most ``MAX_TOKENS`` and ``n_ctx`` of them."""
    # Of a toy language, which has no such words, other ids of its vocabulary in a mixed order.
    ids = tokenizer(TEXT).input_ids
    if ids.count(tokenizer.unk_token_id) > len(ids) / 2:
        size = len(tokenizer)
        ids = [index * _MIXING % size for index in range(size)]
    return ids[: min(MAX_TOKENS, n_ctx)]


def batches(ids: list[int]) -> list[Text]:
    """The fixed text in several lengths, and two of its parts as a batch."""
    half = max(len(ids) // 2, 1)
    lengths = sorted({1, min(2, len(ids)), half, len(ids)})
    rows = [*([ids[:length]] for length in lengths), [ids[:half], ids[-half:]]]
    return [{"input_ids": torch.tensor(of_batch)} for of_batch in rows]


def parity_texts(model: Seq2SeqModel, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """The fixed text in several lengths, with what the decoder has said; the last are padded."""
    ids = token_ids(tokenizer, min(model.cfg.n_ctx, 100) - len(model.prefix))
    half = max(len(ids) // 2, 1)
    # A decoder may have fewer words than the encoder.
    decoded = [*model.prefix, *[index % model.cfg.d_vocab for index in ids[: half + 1]]]
    texts = []
    for length in sorted({1, half, len(ids)}):
        tokens = torch.tensor([ids[:length]])
        texts.append((tokens, torch.ones_like(tokens), torch.tensor([decoded[: length + 1]])))
    mask = torch.ones(2, len(ids), dtype=torch.long)
    mask[1, half:] = 0
    texts.append((torch.tensor([ids, ids]), mask, torch.tensor([decoded, decoded])))
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    return [dict(zip(names, text, strict=True)) for text in texts]
