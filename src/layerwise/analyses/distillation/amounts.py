"""What a training takes: tokens that it reads, operations, and memory by a step on no device.

No numbers are computed here: which texts a step draws follows from the seed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.models.files.folder import read_any_config
from layerwise.models.huggingface.originals import meta_original
from layerwise.models.instance.facts import origin_of
from layerwise.models.instance.kinds import (
    Model,
    blocks_of,
    decoder_prefix,
    is_seq2seq,
    n_encoder_layers,
)
from layerwise.models.names.sources import find_without_weights
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.plans.cost import matrix_flop
from layerwise.sweep.requests import Tokens
from layerwise.sweep.run import model_shape

from .batches import Batch, fitting, sampling_batches
from .examples import Example
from .student import Student, Teacher
from .training import Trainer, Training

# Of one layer of each stack: tokens of the encoder, if there is one, and of the decoder or only
# stack, and their attention pairs, queries times keys.
Amount = Int[np.ndarray, "4"]
NOTHING: Amount = np.zeros(4, dtype=int)


class StepMemory(NamedTuple):
    """Bytes of a training in float32."""

    copied: int  # the copy of the student that is trained, with its adapters
    trained: int  # the weights that change; so much take their gradients, too
    made: int  # what a step makes at the most at any time: activations, gradients, temporaries


@dataclass(frozen=True)
class _TeacherOfSizes(Teacher):
    """Logits of a teacher's sizes."""

    def __call__(
        self, batch: Batch
    ) -> tuple[
        Float[torch.Tensor, "predictions d_vocab"],
        list[Float[torch.Tensor, "texts pos d_model"]],
    ]:
        tokens = batch.tokens if batch.decoder_tokens is None else batch.decoder_tokens
        logits = torch.empty(*tokens.shape, self.model.cfg.d_vocab, device=tokens.device)
        return logits[batch.rows, batch.columns], []


def step_memory(teacher: Model, student: Model, training: Training) -> StepMemory:
    """Memory of a step of a training, on no device."""
    origin = origin_of(student)
    assert origin is not None
    folder = find_without_weights(origin.facts.name).folder
    with torch.device("meta"):
        original = meta_original(read_any_config(folder))
        trained = Student.of_original(original, student, folder, training.layers, training.rank, 0)
    trainer = Trainer(_TeacherOfSizes(teacher), trained, None, training)
    with MadeBytes():
        trainer.step()  # makes the optimizer's moments
    with MadeBytes() as made:
        trainer.step()
    return StepMemory(_size(original.parameters()), _size(trained.trained.values()), made.most)


def _size(weights: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)


class MadeBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made meanwhile.

    Attributes:
        most: the most that were there at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        out = _outcome(func, args, kwargs or {})
        for storage in _storages(out):
            if storage._cdata not in given | self.sizes.keys():
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._forget, storage._cdata)
        return out

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [t.untyped_storage() for t in tree_leaves(values) if isinstance(t, torch.Tensor)]


def _outcome(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation's outcome; on ``meta`` also of those that torch refuses there."""
    name = func.name().partition(".")[0]
    if name == "aten::_local_scalar_dense" and args[0].is_meta:
        return args[0].dtype == torch.bool or 1  # a question about values: yes
    if name == "aten::_grouped_mm" and args[0].is_meta:  # of experts; refused but in bfloat16
        left, right, *rest = args
        return func(left.bfloat16(), right.bfloat16(), *rest, **kwargs).to(left.dtype)
    return func(*args, **kwargs)


def batch_amount(examples: Sequence[Example], prefix: Tokens | None) -> Amount:
    """Amount of one padded batch of training."""
    n = len(examples)
    if prefix is None:
        longest = max(len(example.tokens) - 1 for example in examples)
        return np.array([0, n * longest, 0, n * longest**2])
    n_encoded = max(example.n_prompt for example in examples)
    n_decoded = len(prefix) + max(len(example.targets) for example in examples) - 1
    pairs = n * n_encoded**2, n * n_decoded * (n_decoded + n_encoded)
    return np.array([n * n_encoded, n * n_decoded, *pairs])


def amount_of(examples: Sequence[Example], model: Model, d_vocab: int, memory: int) -> Amount:
    """Amount of a step, in as many batches as memory needs; nothing of no texts."""
    prefix = decoder_prefix(model) if is_seq2seq(model) else None
    batches = [batch_amount(batch, prefix) for batch in fitting(examples, d_vocab, memory)]
    return np.sum([NOTHING, *batches], axis=0)


def amount_written(
    examples: Sequence[Example], lengths: Sequence[int], model: Model, memory: int
) -> Amount:
    """Amount of a student that writes texts of known lengths."""
    prefix, total = decoder_prefix(model) if is_seq2seq(model) else None, NOTHING
    for places in sampling_batches(examples, prefix, model.cfg.d_vocab, memory):
        n, batch = len(places), [examples[place] for place in places]
        first = [example.n_given if prefix is None else len(prefix) for example in batch]
        end = max(n + lengths[place] for n, place in zip(first, places, strict=True))
        n_encoded = 0 if prefix is None else max(example.n_given for example in batch)
        # The last token that is written is not read.
        n_decoded = n * (end - 1)
        pairs = n * n_encoded**2, n_decoded * end // 2
        total = total + np.array([n * n_encoded, n_decoded, *pairs])
    return total


def passes_of(amount: Amount, model: Model) -> int:
    """Tokens pushed through a block, over all layers of a model."""
    n_encoder = n_encoder_layers(model)
    return int(n_encoder * amount[0] + (model.cfg.n_layers - n_encoder) * amount[1])


def flop_of(amount: Amount, model: Model) -> float:
    """Operations of a forward, with logits at every token of the last stack (``cost``)."""
    cfg, n_encoder = model.cfg, n_encoder_layers(model)
    n_decoder = cfg.n_layers - n_encoder
    encoder, decoder, encoder_pairs, decoder_pairs = map(int, amount)
    if not isinstance(model, Seq2SeqModel):
        pairs = n_decoder * decoder_pairs
        return matrix_flop(model_shape(model), n_decoder * decoder, pairs, decoder)
    weights = [
        sum(weight.numel() for weight in parts_of_block(model, block)["layer"])
        for block in blocks_of(model)
    ]
    pairs = n_encoder * encoder_pairs + n_decoder * decoder_pairs
    return float(
        2 * sum(weights[:n_encoder]) * encoder
        + 2 * sum(weights[n_encoder:]) * decoder
        + 4 * pairs * cfg.n_heads * cfg.d_head
        + 2 * decoder * cfg.d_model * cfg.d_vocab
    )
