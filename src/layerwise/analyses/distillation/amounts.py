"""How many tokens a training reads, padding included, and what that is in operations.

Nothing here runs a model: which texts a step draws follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.models import model_facts
from layerwise.models.files.folder import read_any_config
from layerwise.models.huggingface.meta_model import facts_of_meta_model, is_meta_model
from layerwise.analyses.transplant.blocks import parts_of_block
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
from .lessons import Lesson
from .own_texts import written_together


@dataclass(frozen=True)
class Amount:
    """What one layer of each stack reads.

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
            sum(one.numel() for one in parts_of_block(model, block)["layer"])
            for block in blocks_of(model)
        ]
        pairs = n_encoder * self.encoder_pairs + n_decoder * self.decoder_pairs
        return float(
            2 * sum(weights[:n_encoder]) * self.encoder
            + 2 * sum(weights[n_encoder:]) * self.decoder
            + 4 * pairs * cfg.n_heads * cfg.d_head
            + 2 * self.decoder * cfg.d_model * cfg.d_vocab
        )


def amount_together(lessons: Sequence[Lesson], prefix: Tokens | None) -> Amount:
    """What a batch of texts is, as it is padded to be trained on."""
    n = len(lessons)
    if prefix is None:
        longest = max(len(one.tokens) - 1 for one in lessons)
        return Amount(decoder=n * longest, decoder_pairs=n * longest**2)
    read = max(one.n_read for one in lessons)
    said = len(prefix) + max(len(one.said) for one in lessons) - 1
    return Amount(n * read, n * said, n * read**2, n * said * (said + read))


def amount_read(lessons: Sequence[Lesson], model: Model, d_vocab: int, memory: int) -> Amount:
    """What the texts of a step are, in as many batches as memory asks for."""
    prefix = decoder_prefix(model) if is_seq2seq(model) else None
    pieces = fitting(lessons, d_vocab, memory)
    return sum((amount_together(one, prefix) for one in pieces), start=Amount())


def amount_written(
    lessons: Sequence[Lesson], lengths: Sequence[int], model: Model, memory: int
) -> Amount:
    """What a student reads while it writes texts of known lengths."""
    prefix, found = decoder_prefix(model) if is_seq2seq(model) else None, Amount()
    for places in written_together(lessons, prefix, model.cfg.d_vocab, memory):
        n, some = len(places), [lessons[place] for place in places]
        first = [one.n_given if prefix is None else len(prefix) for one in some]
        ends = [n + lengths[place] for n, place in zip(first, places, strict=True)]
        read = 0 if prefix is None else n * max(one.n_given for one in some)
        # The last token that is written is not read.
        said = n * (max(ends) - 1)
        found += Amount(read, said, read * (read // n), said * max(ends) // 2)
    return found


def with_length(lesson: Lesson, length: int) -> Lesson:
    """A text whose student's own part has so many tokens, of no meaning."""
    given: Any = lesson.tokens[: lesson.n_given]
    return lesson._replace(tokens=(*given, *(0,) * length), n_read=lesson.n_given)
