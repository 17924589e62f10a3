"""The student, which is trained as its Hugging Face model, its teacher, and whether they fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from layerwise.errors import UserError, short_repr
from layerwise.models.files.written_folder import copy_other_files, layers_prefix
from layerwise.models.huggingface.folder import read_config
from layerwise.models.huggingface.originals import load_original
from layerwise.models.huggingface.parity_text import token_ids
from layerwise.models.instance.facts import original_tokenizer, vocabulary_difference
from layerwise.models.instance.kinds import (
    Model,
    decoder_prefix,
    is_seq2seq,
    model_blocks,
    n_encoder_layers,
)
from layerwise.models.libraries.quiet import quiet
from layerwise.models.own_files import stored_stacks
from layerwise.models.weights.offload import OnDisk
from layerwise.sweep.requests import Tokens

from .batches import PaddedBatch, batches_that_fit, sample_texts
from .examples import Example
from .losses import Objective

# What an organism's folder says of its own training.
_OF_BEFORE = ("training.json",)

# Logits at the predictions of a batch, and the output streams of layers.
Readings = tuple[
    Float[torch.Tensor, "predictions d_vocab"], list[Float[torch.Tensor, "texts pos d_model"]]
]


@dataclass
class Student:
    """A model that is trained."""

    original: Any  # the Hugging Face model
    blocks: tuple[str, ...]  # the names of the modules of its layers, in the order of computation
    trained: dict[str, nn.Parameter]  # the weights that change, by name
    prefix: Tokens | None  # what its decoder begins with, behind an encoder; None without one
    adapters: Any  # peft's model of the adapters, if these are what changes
    folder: Path  # the files that it came from

    @classmethod
    def from_model(
        cls, model: Model, folder: Path, layers: Sequence[int] | None, rank: int | None, seed: int
    ) -> Student:
        """A copy of a model in float32, to be trained."""
        with quiet():
            original: Any = load_original(folder, read_config(folder), torch.float32)
        original.to(model.W_E.device)
        return cls.of_original(original, model, folder, layers, rank, seed)

    @classmethod
    def of_original(
        cls, original: Any, model: Model, folder: Path, layers: Sequence[int] | None,
        rank: int | None, seed: int,
    ) -> Student:  # fmt: skip
        """The Hugging Face model of a model, to be trained."""
        blocks = _blocks(model, original, folder)
        chosen = range(len(blocks)) if layers is None else sorted(layers)
        within = tuple(f"{blocks[layer]}." for layer in chosen)
        adapters = None
        if rank is not None:
            adapters = put_adapters(original, [blocks[layer] for layer in chosen], rank, seed)
        trained = {
            name: weight
            for name, weight in original.named_parameters()
            if (".lora_" in name if rank else layers is None or name.startswith(within))
        }
        original.requires_grad_(False)
        for weight in trained.values():
            weight.requires_grad_(True)
        prefix = decoder_prefix(model) if is_seq2seq(model) else None
        return cls(original, blocks, trained, prefix, adapters, folder)

    def batch(self, examples: Sequence[Example]) -> PaddedBatch:
        """Texts as this model reads them."""
        return PaddedBatch.from_examples(examples, self.prefix, self.original.device)

    def __call__(self, batch: PaddedBatch, *, streams: bool = False) -> Readings:
        """Logits at the predictions, and the output streams of all layers."""
        inputs: dict[str, Any] = {"input_ids": batch.tokens, "use_cache": False}
        if batch.decoder_tokens is not None:
            inputs |= {"attention_mask": batch.mask.long(), "decoder_input_ids": (
                batch.decoder_tokens)}  # fmt: skip
        kept: list[torch.Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        with contextlib.ExitStack() as undone:
            for name in self.blocks if streams else ():
                hook = self.original.get_submodule(name).register_forward_hook(keep)
                undone.callback(hook.remove)
            logits = self.original(**inputs).logits
        return logits[batch.rows, batch.columns], kept

    def sample(
        self,
        examples: Sequence[Example],
        tokenizer: Any,
        seeds: Sequence[int],
        memory_budget: int,
    ) -> list[Example]:
        """The examples with targets that the student writes, sampled at temperature 1."""
        d_vocab = self.original.config.get_text_config().vocab_size
        texts, left = list[Example](), iter(seeds)
        for batch in batches_that_fit(examples, d_vocab, memory_budget):
            of_batch = list(islice(left, len(batch)))
            texts += sample_texts(self.original, batch, tokenizer, of_batch, self.prefix)
        return texts

    def save(self, place: Path) -> None:
        """Write the model, adapters merged into their weights, into an empty folder."""
        if self.adapters is not None:
            self.original, self.adapters = self.adapters.merge_and_unload(), None
        with quiet():
            self.original.save_pretrained(place)
        copy_other_files(self.folder, place, _OF_BEFORE)


def _blocks(model: Model, original: nn.Module, folder: Path) -> tuple[str, ...]:
    """The names of the modules of all layers, in the order of computation."""
    names = [name for name, _ in original.named_parameters()]
    n_encoder = n_encoder_layers(model)
    if not n_encoder:
        before = layers_prefix(folder, model.cfg.n_layers, names)
        return tuple(f"{before}{layer}" for layer in range(model.cfg.n_layers))
    sizes = (n_encoder, model.cfg.n_layers - n_encoder)
    return tuple(
        f"{layers_prefix(folder, n, names, stored.blocks)}{layer}"
        for n, stored in zip(sizes, stored_stacks(model), strict=True)
        for layer in range(n)
    )


def refuse_incomparable(teacher: Model, student: Model, objective: Objective) -> None:
    """Check that the student can learn from the teacher's distributions."""
    difference = _difference(teacher, student, objective)
    if difference is not None:
        what, of_teacher, of_student = difference
        raise UserError(
            f"The student cannot learn from this teacher: {what} is {of_teacher} in the teacher "
            f"and {of_student} in the student; expected two models with one tokenizer, on one "
            "device, whose next tokens can be compared."
        )
    if any(isinstance(weight, OnDisk) for model in (teacher, student)
           for weight in model.parameters()):  # fmt: skip
        raise UserError(
            "A model's weights are on disk, where a distillation would read them at every step: "
            "expected both models in memory; load them without offload."
        )


def _difference(
    teacher: Model, student: Model, objective: Objective
) -> tuple[str, str, str] | None:
    """Difference of the teacher and the student, and the value in each."""
    both = (teacher, student)
    kinds = ["an encoder-decoder" if is_seq2seq(m) else "decoder-only" for m in both]
    if kinds[0] != kinds[1]:
        return "the kind of model", kinds[0], kinds[1]
    difference = vocabulary_difference(teacher, student)
    if difference is not None:
        return difference
    n_ctx = min(model.cfg.n_ctx for model in both)
    properties: dict[str, list[Any]] = {
        "the beginning of an encoded text": [
            token_ids(original_tokenizer(model), n_ctx) for model in both
        ],
        "the decoder's beginning": [decoder_prefix(model) for model in both],
        "the device": [str(model.W_E.device) for model in both],
        "the width of the residual stream, which its distance needs,": [
            model.cfg.d_model if objective.hidden else None for model in both
        ],
    }
    for what, (of_teacher, of_student) in properties.items():
        # A model without weights is on no device.
        if of_teacher != of_student and "meta" not in (of_teacher, of_student):
            return what, short_repr(of_teacher), short_repr(of_student)
    return None


@dataclass(frozen=True)
class Teacher:
    """The model whose predictions are trained on."""

    model: Model  # the model
    # Whose residual streams are wanted, by number; none if there are none.
    layers: tuple[int, ...] = ()

    @torch.no_grad()
    def __call__(self, batch: PaddedBatch) -> Readings:
        """Logits at the predictions, and the output streams of the wanted layers."""
        kept: dict[str, torch.Tensor] = {}

        def keep(value: torch.Tensor, hook: Any) -> None:
            kept[hook.name] = value

        blocks: Any = model_blocks(self.model)
        names = [blocks[layer].hook_resid_post.name for layer in self.layers]
        inputs: tuple[Any, ...] = (batch.tokens,)
        if is_seq2seq(self.model):
            inputs = (batch.tokens, batch.decoder_tokens, batch.mask, batch.decoder_mask)
        logits = self.model.run_with_hooks(*inputs, fwd_hooks=[(name, keep) for name in names])
        return logits[batch.rows, batch.columns], [kept[name] for name in names]


def matching_layers(n_student: Sequence[int], n_teacher: Sequence[int]) -> tuple[int, ...]:
    """For each layer of a student, the teacher's layer that ends at the same relative depth."""
    layers, first = list[int](), 0
    for n_own, n_other in zip(n_student, n_teacher, strict=True):
        layers += [first + -(-(layer + 1) * n_other // n_own) - 1 for layer in range(n_own)]
        first += n_other
    return tuple(layers)


def need_peft() -> None:
    """Make sure that adapters can be made."""
    try:
        import peft as peft
    except ImportError as error:
        raise UserError(
            "Low-rank adapters need the package peft, which is not installed: expected it beside "
            "layerwise; pip install 'layerwise[distill]', or leave the rank out to train the "
            "weights themselves."
        ) from error


def put_adapters(model: nn.Module, blocks: Iterable[str], rank: int, seed: int) -> Any:
    """Give all linear maps of some blocks adapters ``2 B A``, with A drawn and B zero."""
    need_peft()
    from peft import LoraConfig, LoraModel
    from transformers.pytorch_utils import Conv1D

    within = tuple(f"{block}." for block in blocks)
    linear: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if name.startswith(within) and isinstance(module, (nn.Linear, Conv1D))
    }
    if not linear:
        raise UserError(
            "Low-rank adapters have nothing to adapt: the chosen layers have no linear maps of "
            "their own; leave the rank out to train the weights themselves."
        )
    transposed = {isinstance(module, Conv1D) for module in linear.values()}
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, bias="none",
        target_modules=sorted(linear), fan_in_fan_out=transposed == {True},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LoraModel(model, config, "default")
