"""Memory of a training, measured on two of its steps with ``meta`` tensors (no values)."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layerwise.models.huggingface.folder import read_any_config
from layerwise.models.huggingface.originals import meta_original
from layerwise.models.instance.facts import model_origin
from layerwise.models.instance.kinds import Model
from layerwise.models.names.sources import find_without_weights

from .batches import PaddedBatch
from .loop import Trainer, Training
from .student import Readings, Student, Teacher


class StepMemory(NamedTuple):
    """Bytes of a training in float32."""

    copied: int  # the copy of the student that is trained, with its adapters
    trained: int  # the weights that change; so much take their gradients, too
    made: int  # what a step makes at the most at any time: activations, gradients, temporaries


@dataclass(frozen=True)
class _MetaTeacher(Teacher):
    """A teacher whose logits have shapes and no values."""

    def __call__(self, batch: PaddedBatch) -> Readings:
        tokens = batch.tokens if batch.decoder_tokens is None else batch.decoder_tokens
        logits = torch.empty(*tokens.shape, self.model.cfg.d_vocab, device=tokens.device)
        return logits[batch.rows, batch.columns], []


def step_memory(teacher: Model, student: Model, training: Training) -> StepMemory:
    """Memory of the second step of a training, on no device."""
    origin = model_origin(student)
    assert origin is not None
    folder = find_without_weights(origin.facts.name).folder
    with torch.device("meta"):
        original = meta_original(read_any_config(folder))
        trained = Student.of_original(original, student, folder, training.layers, training.rank, 0)
    trainer = Trainer(_MetaTeacher(teacher), trained, None, training)
    with MemoryCounter():
        trainer.step()  # makes the optimizer's moments
    with MemoryCounter() as made:
        trainer.step()
    return StepMemory(_size(original.parameters()), _size(trained.trained.values()), made.most)


def _size(weights: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)


class MemoryCounter(TorchDispatchMode):
    """Count the bytes of tensors that are made in the context: ``most`` at any time."""

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
    """The outcome of an operation; also of those that torch refuses on ``meta``."""
    name = func.name().partition(".")[0]
    if name == "aten::_local_scalar_dense" and args[0].is_meta:
        return args[0].dtype == torch.bool or 1  # a question about values: yes
    if name == "aten::_grouped_mm" and args[0].is_meta:  # of experts; refused but in bfloat16
        left, right, *rest = args
        return func(left.bfloat16(), right.bfloat16(), *rest, **kwargs).to(left.dtype)
    return func(*args, **kwargs)
