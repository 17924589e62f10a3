"""How many tokens a training reads, padding included, and what that is in operations.

Nothing here runs a model: which texts a step draws follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.models.instance.kinds import (
    Model,
    blocks_of,
    decoder_prefix,
    is_seq2seq,
    n_encoder_layers,
)
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.plans.cost import matrix_flop
from layerwise.sweep.requests import Tokens
from layerwise.sweep.run import model_shape

from .batches import fitting
from .examples import Example
from .own_texts import sampling_batches


@dataclass(frozen=True)
class Amount:
    """Tokens and attention pairs of one layer of each stack.

    Attributes:
        encoder: tokens of the encoder, if there is one.
        decoder: tokens of the decoder, or of the only stack.
        encoder_pairs: queries times keys in the encoder.
        decoder_pairs: the same in the decoder, or the only stack.
    """

    encoder: int = 0
    decoder: int = 0
    encoder_pairs: int = 0
    decoder_pairs: int = 0

    def __add__(self, other: Amount) -> Amount:
        names = [field.name for field in fields(self)]
        return Amount(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def tokens(self) -> int:
        """Tokens of both stacks."""
        return self.encoder + self.decoder

    def passes(self, model: Model) -> int:
        """Tokens pushed through a block, over all layers of a model."""
        n_encoder = n_encoder_layers(model)
        return n_encoder * self.encoder + (model.cfg.n_layers - n_encoder) * self.decoder

    def flop(self, model: Model) -> float:
        """Operations of a forward, with logits at every token of the last stack (``cost``)."""
        cfg, n_encoder = model.cfg, n_encoder_layers(model)
        n_decoder = cfg.n_layers - n_encoder
        if not isinstance(model, Seq2SeqModel):
            shape = model_shape(model)
            pairs = n_decoder * self.decoder_pairs
            return matrix_flop(shape, n_decoder * self.decoder, pairs, self.decoder)
        weights = [
            sum(weight.numel() for weight in parts_of_block(model, block)["layer"])
            for block in blocks_of(model)
        ]
        pairs = n_encoder * self.encoder_pairs + n_decoder * self.decoder_pairs
        return float(
            2 * sum(weights[:n_encoder]) * self.encoder
            + 2 * sum(weights[n_encoder:]) * self.decoder
            + 4 * pairs * cfg.n_heads * cfg.d_head
            + 2 * self.decoder * cfg.d_model * cfg.d_vocab
        )


def batch_amount(examples: Sequence[Example], prefix: Tokens | None) -> Amount:
    """Amount of one padded batch of training."""
    n = len(examples)
    if prefix is None:
        longest = max(len(example.tokens) - 1 for example in examples)
        return Amount(decoder=n * longest, decoder_pairs=n * longest**2)
    n_encoded = max(example.n_prompt for example in examples)
    n_decoded = len(prefix) + max(len(example.targets) for example in examples) - 1
    return Amount(
        n * n_encoded, n * n_decoded, n * n_encoded**2, n * n_decoded * (n_decoded + n_encoded)
    )


def amount_of(examples: Sequence[Example], model: Model, d_vocab: int, memory: int) -> Amount:
    """Amount of a step, in as many batches as memory needs."""
    prefix = decoder_prefix(model) if is_seq2seq(model) else None
    batches = fitting(examples, d_vocab, memory)
    return sum((batch_amount(batch, prefix) for batch in batches), start=Amount())


def amount_written(
    examples: Sequence[Example], lengths: Sequence[int], model: Model, memory: int
) -> Amount:
    """Amount of a student that writes texts of known lengths."""
    prefix, total = decoder_prefix(model) if is_seq2seq(model) else None, Amount()
    for places in sampling_batches(examples, prefix, model.cfg.d_vocab, memory):
        n, batch = len(places), [examples[place] for place in places]
        first = [example.n_given if prefix is None else len(prefix) for example in batch]
        ends = [n + lengths[place] for n, place in zip(first, places, strict=True)]
        n_encoded = 0 if prefix is None else n * max(example.n_given for example in batch)
        # The last token that is written is not read.
        n_decoded = n * (max(ends) - 1)
        total += Amount(
            n_encoded, n_decoded, n_encoded * (n_encoded // n), n_decoded * max(ends) // 2
        )
    return total


def with_length(example: Example, length: int) -> Example:
    """The example with so many meaningless tokens as its targets."""
    tokens = (*example.given, *(0,) * length)
    return example._replace(tokens=tokens, n_prompt=example.n_given)
