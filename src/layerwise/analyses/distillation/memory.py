"""How much memory a training takes: of weights, gradients, optimizer states and activations.

Sizes of activations are rules of thumb, held to what trainings take by ``tests/test_distill_plan``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from layerwise.analyses.transplant.blocks import parts_of_block
from layerwise.models import model_facts
from layerwise.models.folder import read_any_config
from layerwise.models.footprint import weight_bytes
from layerwise.models.kinds import (
    Model,
    blocks_of,
    decoder_prefix,
    is_seq2seq,
    n_encoder_layers,
    over_original,
)
from layerwise.models.meta_model import facts_of_outline, is_meta_model
from layerwise.models.sources import find_outline

from .amounts import amount_together
from .lessons import Lesson

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
    facts = facts_of_outline(model)
    folder = find_outline(facts.name).folder
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
