"""A model made of files by one of two backends, and compared with its original.

TransformerLens converts a decoder's weights into modules of its own; a ``DecoderModel`` or a
``Seq2SeqModel`` runs the modules of Hugging Face.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from layerwise.errors import UserError
from layerwise.models.decoder.load import hooked_decoder, is_tested, refuse_wrong_sites
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.decoder.reading import UnknownArchitecture
from layerwise.models.files.cache import read_record, write_record
from layerwise.models.huggingface.folder import must_be_usable
from layerwise.models.huggingface.originals import (
    load_original,
    load_tokenizer,
    meta_original,
    refuse_nonfinite,
)
from layerwise.models.huggingface.parity_text import Text, batches, parity_texts, token_ids
from layerwise.models.instance.facts import weights_hash
from layerwise.models.instance.kinds import Model
from layerwise.models.instance.loaded import HUGGING_FACE, TRANSFORMER_LENS
from layerwise.models.instance.source import Source
from layerwise.models.libraries.hooked import HookedTransformerConfig, has_hooked_transformer
from layerwise.models.seq2seq.load import hooked_seq2seq
from layerwise.models.seq2seq.model import Seq2SeqModel
from layerwise.models.weights.mapped_memory import release_freed_memory
from layerwise.models.weights.offload import no_values
from layerwise.models.weights.quantization import Quantization, read_quantization
from layerwise.models.weights.strides import restride

from . import parity
from .convert import NoConversionError, hooked_config, hooked_model
from .parity import Check

_KIND = "backends"


@dataclass(frozen=True)
class Placement:
    """The requested number format and device of a model."""

    dtype: torch.dtype
    device: torch.device


PLAIN = Placement(torch.float32, torch.device("cpu"))
"""In which every model is compared with its original first."""


@dataclass(frozen=True)
class Files:
    """A model's files and its backend."""

    source: Source  # where they are
    config: PreTrainedConfig  # the configuration
    tokenizer: PreTrainedTokenizerBase
    backend: str  # ``TRANSFORMER_LENS`` or ``HUGGING_FACE``

    @property
    def two_stacks(self) -> bool:
        """True if they are those of an encoder-decoder."""
        return bool(self.config.is_encoder_decoder)

    @cached_property
    def quantization(self) -> Quantization | None:
        """Quantization of the weights; None if they are not quantized."""
        return read_quantization(self.source.folder)

    @property
    def kept_quantization(self) -> Quantization | None:
        """Quantization that weights keep in memory; None if they are numbers there."""
        if self.backend != HUGGING_FACE or self.two_stacks or self.quantization is None:
            return None
        return self.quantization if self.quantization.kept else None

    def original(self, wanted: Placement) -> PreTrainedModel:
        """The Hugging Face model in a number format; on the CPU, if its weights are numbers."""
        if self.two_stacks:  # of which transformers would leave some matrices in float32
            original: Any = load_original(self.source.folder, self.config, torch.float32)
            return original.to(wanted.dtype)
        kept_on = None if self.kept_quantization is None else wanted.device
        return load_original(self.source.folder, self.config, wanted.dtype, kept_on)

    def first(self, wanted: Placement) -> Placement:
        """The format and device of the strict comparison: float32, on the CPU unless quantized."""
        if self.kept_quantization is None:
            return PLAIN
        dtype = torch.float32 if torch.float32 in self.kept_quantization.formats else wanted.dtype
        return Placement(dtype, wanted.device)

    def meta_original(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """The Hugging Face model without weights, made anew."""
        with must_be_usable(self.source.folder):
            return meta_original(self.config, dtype)

    def hook_original(self, original: PreTrainedModel) -> Any:
        """The hooked model over the modules of an original."""
        hooked = hooked_seq2seq if self.two_stacks else hooked_decoder
        return hooked(original, self.tokenizer, self.source.name)

    def computed_buffers(self, wanted: Placement) -> dict[str, torch.Tensor]:
        """Buffers that follow from the configuration, by their names in the hooked model."""
        with no_values(wanted.device):
            made = AutoModelForCausalLM.from_config(
                copy.deepcopy(self.config),
                dtype=wanted.dtype,
                attn_implementation="eager",
                trust_remote_code=False,
            )
        named = made.named_buffers(remove_duplicate=False)
        return {f"original.{name}": buffer for name, buffer in named}

    def n_parameters(self, model: Model) -> int:
        """Number of the original's parameters, shared ones counted once."""
        # TransformerLens's copy shares none. What a T5 shares is known by its files alone.
        original = model if self.two_stacks else self.meta_original()
        return sum(parameter.numel() for parameter in original.parameters())

    def texts(self, original: PreTrainedModel) -> list[Text]:
        """The fixed text as the model is given it, in several lengths."""
        if self.two_stacks:
            return parity_texts(self.hook_original(original), self.tokenizer)
        if self.backend == TRANSFORMER_LENS:
            n_ctx = self.hooked_config(torch.float32).n_ctx
        else:
            n_ctx = self.hook_original(self.meta_original()).cfg.n_ctx
        return batches(token_ids(self.tokenizer, n_ctx))

    def hooked_config(self, dtype: torch.dtype) -> HookedTransformerConfig:
        """TransformerLens's configuration of the model."""
        return hooked_config(self.source.folder, self.source.name, self.config, dtype)

    def check_key(self, wanted: Placement) -> str:
        """The cache key of a comparison's outcome."""
        how = [] if self.quantization is None else self.quantization.versions
        folder, backend = self.source.folder, self.backend
        return parity.check_key(folder, wanted.dtype, wanted.device, backend, how)


def read_files(source: Source, config: PreTrainedConfig, backend: str) -> Files:
    """A model's files and its backend; refuses what cannot run before weights are read."""
    chosen = choose_backend(source, config, backend)
    tokenizer = load_tokenizer(source.folder, config, trusted=source.is_trusted)
    files = Files(source, config, tokenizer, chosen)
    doubted = backend == "auto" and chosen == TRANSFORMER_LENS
    if doubted and read_record(_KIND, files.check_key(PLAIN)) is not None:  # of an earlier load
        return replace(files, backend=HUGGING_FACE)
    return files


def choose_backend(source: Source, config: PreTrainedConfig, backend: str) -> str:
    """The backend of a model, from its configuration."""
    if config.is_encoder_decoder:
        refuse_transformer_lens(source.name, backend)
        return HUGGING_FACE
    quantization = read_quantization(source.folder)
    # TransformerLens has no modules for quantized weights: who asks for it gets numbers.
    kept = backend == "auto" and quantization is not None and quantization.kept
    if kept or backend == HUGGING_FACE or not has_hooked_transformer():
        _refuse_unknown(source, config)
        return HUGGING_FACE
    try:
        hooked_config(source.folder, source.name, config, torch.float32)
    except NoConversionError as refusal:
        if backend == TRANSFORMER_LENS:
            reason = str(refusal).rstrip(".")
            raise NoConversionError(
                f"{reason}, or leave the backend to be chosen (`auto`)."
            ) from refusal
        _refuse_also(refusal, source, config)
        return HUGGING_FACE
    return TRANSFORMER_LENS


def refuse_transformer_lens(name: str, backend: str) -> None:
    """Refuse an encoder-decoder by a backend that has none."""
    if backend == TRANSFORMER_LENS:
        raise UserError(
            f"{name!r} is an encoder-decoder, which runs over its original: expected no other "
            f"backend; leave {backend!r} out."
        )


def _refuse_also(refusal: UserError, source: Source, config: PreTrainedConfig) -> None:
    """Refuse what cannot be run by its own modules either, with both reasons."""
    try:
        _refuse_unknown(source, config)
    except UnknownArchitecture as unknown:
        first, second = (str(error).rstrip(".") for error in (refusal, unknown))
        raise UserError(f"{first}. {second}.") from unknown


def _refuse_unknown(source: Source, config: PreTrainedConfig) -> None:
    with must_be_usable(source.folder):
        original = meta_original(config)
    hooked_decoder(original, None, source.name)


def second_choice(files: Files, refusal: UserError) -> Files:
    """Switch to Hugging Face's modules, as TransformerLens's copy is wrong."""
    # It is remembered, so that the next load begins with these.
    _refuse_also(refusal, files.source, files.config)
    write_record(_KIND, files.check_key(PLAIN), {"backend": HUGGING_FACE})
    return replace(files, backend=HUGGING_FACE)


def build_hooked(files: Files, original: PreTrainedModel, wanted: Placement) -> Model:
    """The hooked model in the requested format; it takes over the original's weights."""
    if files.backend == HUGGING_FACE:
        return files.hook_original(original).to(wanted.device)
    model = hooked_model(files.hooked_config(wanted.dtype), original, files.tokenizer)
    if wanted.device.type != "cpu":
        model.to(wanted.device, print_details=False)
    restride(model)
    return model


def build_checked(files: Files, wanted: Placement) -> tuple[Model, Check]:
    """The hooked model, compared with its original in float32 and in the requested format."""
    # What the original says is written down before its weights become the hooked model's, so that
    # they are never in memory twice; where rounding is in question, the original is loaded again.
    name, first = files.source.name, files.first(wanted)
    original = files.original(first)
    refuse_nonfinite(name, original)
    texts = files.texts(original)
    with parity.refuse_crash(name):
        expected = parity.reference(original, texts)
    model = build_hooked(files, original, first)
    del original
    if not isinstance(model, Seq2SeqModel):
        parity.refuse_other_tokens(name, model, files.tokenizer)
    reload = partial(load_original, files.source.folder, files.config, torch.float32)
    difference = parity.check_parity(name, model, expected, texts, reload)
    if isinstance(model, DecoderModel) and not is_tested(model.original):
        refuse_wrong_sites(model)
    if wanted != first:
        del model
        release_freed_memory()
        model = build_hooked(files, files.original(wanted), wanted)
        refuse_nonfinite(name, model)
        difference = parity.check_parity(name, model, expected, texts, reload)
    return model, Check(difference, weights_hash(model))
