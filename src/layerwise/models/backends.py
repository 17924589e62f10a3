"""A decoder made of files by one of two backends, and compared with its original.

TransformerLens converts weights into modules of its own; a ``DecoderModel`` runs the modules of
Hugging Face. Where files come from, and what is remembered of a comparison, is told in ``load``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformer_lens import HookedTransformerConfig
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError
from layerwise.models import parity
from layerwise.models.cache import read_record, write_record
from layerwise.models.convert import NotConverted, hooked_config, hooked_model
from layerwise.models.decoder.load import hooked_decoder, is_tested, outline_of
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.decoder.reading import UnknownArchitecture
from layerwise.models.decoder.trial import refuse_wrong_sites
from layerwise.models.facts import weights_hash
from layerwise.models.folder import must_be_usable
from layerwise.models.kinds import DecoderOnly
from layerwise.models.loaded import HUGGING_FACE, TRANSFORMER_LENS
from layerwise.models.originals import load_original, load_tokenizer, refuse_nonfinite
from layerwise.models.parity import Check
from layerwise.models.sources import Source
from layerwise.models.strides import restride

_KIND = "backends"


@dataclass(frozen=True)
class Wanted:
    """The number format and the device that a model is asked for in."""

    dtype: torch.dtype
    device: torch.device


PLAIN = Wanted(torch.float32, torch.device("cpu"))
"""In which every model is compared with its original first."""


@dataclass(frozen=True)
class Files:
    """A decoder's files, and by what it is to be run.

    Attributes:
        source: where they are.
        config: the configuration.
        tokenizer: the tokenizer.
        backend: ``TRANSFORMER_LENS`` or ``HUGGING_FACE``.
    """

    source: Source
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    backend: str

    def original(self, dtype: torch.dtype) -> PreTrainedModel:
        """The Hugging Face model."""
        return load_original(self.source.folder, self.config, dtype)

    def hooked_config(self, dtype: torch.dtype) -> HookedTransformerConfig:
        """TransformerLens's configuration of the model."""
        return hooked_config(self.source.folder, self.source.name, self.config, dtype)

    def check_key(self, wanted: Wanted) -> str:
        """What the outcome of a comparison depends on."""
        return parity.check_key(self.source.folder, wanted.dtype, wanted.device, self.backend)


def read_files(source: Source, config: PreTrainedConfig, backend: str) -> Files:
    """The files of a model and its backend; what cannot be run is refused before weights are read.

    Args:
        source: where the files are.
        config: the configuration.
        backend: ``TRANSFORMER_LENS``, ``HUGGING_FACE``, or ``auto``: the first if it converts
            the model.

    Raises:
        UserError: if the backend, or with ``auto`` either of them, cannot run the architecture.
    """
    chosen = choose_backend(source, config, backend)
    tokenizer = load_tokenizer(source.folder, config)
    files = Files(source, config, tokenizer, chosen)
    passed_over = backend == "auto" and _passed_over(files)
    return replace(files, backend=HUGGING_FACE) if passed_over else files


def choose_backend(source: Source, config: PreTrainedConfig, backend: str) -> str:
    """By what a model is run, as far as its configuration tells; takes what ``read_files`` takes.

    Raises:
        UserError: if the backend, or with ``auto`` either of them, cannot run the architecture.
    """
    if backend == HUGGING_FACE:
        _refuse_unknown(source, config)
        return HUGGING_FACE
    try:
        hooked_config(source.folder, source.name, config, torch.float32)
    except NotConverted as refusal:
        if backend == TRANSFORMER_LENS:
            told = str(refusal).rstrip(".")
            raise NotConverted(f"{told}, or leave the backend to be chosen (`auto`).") from refusal
        _refuse_also(refusal, source, config)
        return HUGGING_FACE
    return TRANSFORMER_LENS


def _refuse_also(refusal: UserError, source: Source, config: PreTrainedConfig) -> None:
    """Refuse what cannot be run by its own modules either, with both reasons."""
    try:
        _refuse_unknown(source, config)
    except UnknownArchitecture as unknown:
        first, second = (str(told).rstrip(".") for told in (refusal, unknown))
        raise UserError(f"{first}. {second}.") from unknown


def _refuse_unknown(source: Source, config: PreTrainedConfig) -> None:
    with must_be_usable(source.folder):
        outline = outline_of(config)
    hooked_decoder(outline, None, source.name)


def _passed_over(files: Files) -> bool:
    """Whether TransformerLens was found to be wrong on these files at an earlier load."""
    return files.backend == TRANSFORMER_LENS and read_record(_KIND, _key(files)) is not None


def _key(files: Files) -> str:
    return files.check_key(PLAIN)


def second_choice(files: Files, refusal: UserError) -> Files:
    """The same files by Hugging Face's modules, since there is no right copy by TransformerLens.

    It is remembered, so that the next load begins with these.

    Args:
        files: the files, by TransformerLens.
        refusal: why there is none.

    Raises:
        UserError: if their own modules cannot be run either.
    """
    _refuse_also(refusal, files.source, files.config)
    write_record(_KIND, _key(files), {"backend": HUGGING_FACE})
    return replace(files, backend=HUGGING_FACE)


def delivered(files: Files, original: PreTrainedModel, wanted: Wanted) -> DecoderOnly:
    """The hooked model as it is asked for.

    Args:
        files: its files.
        original: the original, in any number format.
        wanted: number format and device.
    """
    if files.backend == HUGGING_FACE:
        if original.dtype != wanted.dtype:
            original = files.original(wanted.dtype)
        return hooked_decoder(original, files.tokenizer, files.source.name).to(wanted.device)
    model = hooked_model(files.hooked_config(wanted.dtype), original, files.tokenizer)
    if wanted.device.type != "cpu":
        model.to(wanted.device, print_details=False)
    restride(model)
    return model


def checked(files: Files, original: PreTrainedModel, wanted: Wanted) -> tuple[DecoderOnly, Check]:
    """The hooked model, held to its original in float32 first and then as it is asked for.

    Raises:
        NotItsOriginal: if it differs, or has other tokens.
        UserError: if its weights are no numbers, it does not run, or its sites are wrong.
    """
    name = files.source.name
    refuse_nonfinite(name, original)
    model = delivered(files, original, PLAIN)
    parity.refuse_other_tokens(name, model, files.tokenizer)
    ids = parity.token_ids(files.tokenizer, model.cfg.n_ctx)

    def from_exact() -> tuple[float, parity.Exact]:
        truth = parity.exact(original, lambda one: parity.reference(one, ids))
        return parity.largest_difference(model, truth.logprobs, ids), truth

    with parity.must_run(name):
        expected = parity.reference(original, ids)
        difference = parity.largest_difference(model, expected, ids)
    parity.refuse_difference(name, difference, PLAIN.dtype, from_exact)
    if isinstance(model, DecoderModel) and not is_tested(model.original):
        refuse_wrong_sites(model)
    if wanted != PLAIN:
        model = delivered(files, original, wanted)
        refuse_nonfinite(name, model)
        with parity.must_run(name):
            difference = parity.largest_difference(model, expected, ids)
        parity.refuse_difference(name, difference, wanted.dtype, from_exact)
    return model, Check(difference, weights_hash(model))
