"""How many tokens a training reads, padding included, what that is in operations, and its memory.

Nothing here runs a model: which texts a step draws follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any

from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.models import model_facts
from layerwise.models.files.folder import read_any_config
from layerwise.models.huggingface.meta_model import facts_of_meta_model, is_meta_model
from layerwise.models.instance.kinds import (
    Model,
    blocks_of,
    decoder_prefix,
    is_seq2seq,
    n_encoder_layers,
    over_original,
)
from layerwise.models.names.sources import find_without_weights
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.weights.footprint import weight_bytes
from layerwise.sweep.plans.cost import matrix_flop
from layerwise.sweep.requests import Tokens
from layerwise.sweep.run import model_shape

from .batches import fitting
from .lessons import Lesson
from .own_texts import written_together

# Bytes of a float32, in which a student is trained.
SINGLE = 4
# AdamW keeps two moments of each trained weight.
MOMENTS = 2
# What a layer keeps of a token for its backward, in widths of the stream and of the MLP: norms,
# queries and keys before and behind the rotation, values, sums; and the MLP's products.
OF_STREAM, OF_MLP, OF_CROSS = 12, 4, 6
# Logits, as often as they are there: of all tokens, and of what is predicted with the softmaxes.
OF_LOGITS, OF_PREDICTED = 1.0, 5.5
# A step of AdamW works on this many copies of one weight.
OF_STEP = 2
# A state is packed into bytes twice: each tensor, and all of them.
OF_STATE = 2


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


@dataclass(frozen=True)
class Held:
    """Bytes of weights while a student is trained.

    Attributes:
        models: teacher, student, and the copy of the student that is trained, with its adapters.
        trained: the weights that change.
        largest: the largest of these.
        loading: all models while the written one is loaded and compared.
    """

    models: int
    trained: int
    largest: int
    loading: int

    @property
    def gradients(self) -> int:
        """Bytes of gradients."""
        return self.trained

    @property
    def moments(self) -> int:
        """Bytes of what the optimizer keeps."""
        return MOMENTS * self.trained

    def besides(self, activations: int) -> int:
        """Bytes that come on top of all weights, gradients and moments at the most.

        Gradients grow while activations go, so that both are not there at once; a state is kept
        when neither is.
        """
        state = OF_STATE * (self.trained + self.moments)
        step = self.gradients + OF_STEP * self.largest
        return max(activations, step, state) - self.gradients


def weights_held(
    teacher: Model, student: Model, layers: Sequence[int] | None, rank: int | None
) -> Held:
    """What is in memory beside activations."""
    own, n_own = list(student.parameters()), n_parameters(student)
    inside = [
        [tuple(weight.shape) for weight in parts_of_block(student, block)["layer"]]
        for block in blocks_of(student)
    ]
    chosen = [inside[layer] for layer in (range(len(inside)) if layers is None else layers)]
    loaded, copied = sum(map(weight_bytes, (teacher, student))), SINGLE * n_own
    n_trained, largest = n_own, max(weight.numel() for weight in own)
    if rank is not None:
        maps = [rank * _ends(one) for block in chosen for one in block if _is_map(one, student)]
        n_trained, largest = sum(maps), max(maps, default=0)
        copied += SINGLE * n_trained
    elif layers is not None:
        sizes = [prod(one) for block in chosen for one in block]
        n_trained, largest = sum(sizes), max(sizes)
    loading = loaded + weight_bytes(student) + SINGLE * n_own
    return Held(loaded + copied, SINGLE * n_trained, SINGLE * largest, loading)


def n_parameters(model: Model) -> int:
    """Parameters of a model's original, shared ones once, also of an outline."""
    if not is_meta_model(model):
        return model_facts(model).n_parameters
    facts = facts_of_meta_model(model)
    folder = find_without_weights(facts.name).folder
    config = read_any_config(folder)
    # TransformerLens has an unembedding of its own also where it is the embedding.
    twice = config.tie_word_embeddings and not (is_seq2seq(model) or over_original(model))
    return facts.n_parameters - (model.W_U.numel() if twice else 0)


def _is_map(shape: tuple[int, ...], model: Model) -> bool:
    """Whether weights of a shape are a linear map's, not the biases of heads."""
    heads = {getattr(model.cfg, name, None) for name in ("n_heads", "n_key_value_heads")}
    return len(shape) > 1 and not (shape[0] in heads and shape[1:] == (model.cfg.d_head,))


def _ends(shape: tuple[int, ...]) -> int:
    """Rows and columns of a linear map; of heads that are stored one by one, of all of them."""
    if len(shape) == 2:
        return sum(shape)
    heads, into, out = shape[-3:]
    # A head's own width is the smaller of both.
    return into + heads * out if into > out else heads * into + out


def activation_bytes(texts: Sequence[Lesson], teacher: Model, student: Model, first: int) -> int:
    """What a batch leaves in memory for the backward of a student, in float32."""
    cfg, n_encoder = student.cfg, n_encoder_layers(student)
    prefix = decoder_prefix(student) if is_seq2seq(student) else None
    amount = amount_together(texts, prefix)
    layer = OF_STREAM * cfg.d_model + OF_MLP * (cfg.d_mlp or 0)
    behind = max(n_encoder - first, 0)
    kept = behind * amount.encoder * layer
    n_decoder = cfg.n_layers - max(n_encoder, first)
    crossed = OF_CROSS * cfg.d_model if n_encoder else 0
    kept += n_decoder * amount.decoder * (layer + crossed)
    if n_encoder:  # scores are kept where attention is written out, as in T5
        pairs = behind * amount.encoder_pairs + n_decoder * amount.decoder_pairs
        kept += pairs * cfg.n_heads
    n_predicted = sum(len(one.said) for one in texts)
    kept += (OF_LOGITS * amount.decoder + OF_PREDICTED * n_predicted) * max(
        teacher.cfg.d_vocab, cfg.d_vocab
    )
    return round(SINGLE * kept)
