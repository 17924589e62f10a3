"""What a training takes: tokens that it reads, operations, and memory by a step on no device.

No numbers are computed here: which texts a step draws follows from the seed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
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

from .batches import Batch, fitting
from .examples import Example
from .losses import Objective
from .own_texts import sampling_batches
from .student import Student, Teacher
from .training import Trainer


class StepMemory(NamedTuple):
    """Bytes of a training in float32.

    Attributes:
        copied: the copy of the student that is trained, with its adapters.
        trained: the weights that change; so much take their gradients, too.
        made: what a step makes at the most at any time: activations, gradients, temporaries.
    """

    copied: int
    trained: int
    made: int


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


def step_memory(
    teacher: Model,
    student: Model,
    texts: Sequence[Example],
    layers: Sequence[int] | None,
    rank: int | None,
    memory_budget: int,
) -> StepMemory:
    """Memory of a step on some texts, which the student does not write itself."""
    origin = origin_of(student)
    assert origin is not None
    folder = find_without_weights(origin.facts.name).folder
    with torch.device("meta"):
        original = meta_original(read_any_config(folder))
        trained = Student.of_original(original, student, folder, layers, rank, 0)
    trainer = Trainer(
        _TeacherOfSizes(teacher), trained, texts, texts, Objective(), None,
        # So many steps that none is a point of the curve.
        10_000, 1e-6, len(texts), 0, memory_budget,
    )  # fmt: skip
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
