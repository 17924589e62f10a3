"""The files that a loaded model came from, for what writes another model from them."""

from __future__ import annotations

from pathlib import Path

from layerwise.errors import UserError
from layerwise.models.files.written_folder import StoredStack
from layerwise.models.instance.facts import model_facts, model_origin
from layerwise.models.instance.kinds import Model, by_kind, runs_original_modules
from layerwise.models.instance.loaded import HUGGING_FACE
from layerwise.models.load import load_model
from layerwise.models.names.registry import WIRED_MODELS
from layerwise.models.names.sources import find_source
from layerwise.models.seq2seq.families import STORED_IN


def model_folder(model: Model) -> Path:
    """The folder in hub format that the model's weights came from."""
    refuse_no_files(model)
    origin = model_origin(model)
    assert origin is not None
    if model_facts(model).hash != origin.facts.hash:
        raise UserError(
            f"The weights or settings of {origin.facts.name!r} were changed after it was loaded, "
            "and only its original's files can be written: expected a model as load_model made it; "
            "load it again."
        )
    return find_source(origin.facts.name).folder


def refuse_no_files(model: Model) -> None:
    """Refuse a model, or its meta model, that came from no files."""
    origin = model_origin(model)
    if origin is None or origin.facts.source == "user" or origin.facts.name in WIRED_MODELS:
        raise UserError(
            "The model has no Hugging Face original to write from: expected one that load_model "
            "made of files; load it by name, or save its original with save_pretrained and load "
            "that folder."
        )


def stored_stacks(model: Model) -> tuple[StoredStack, ...]:
    """Names by which an encoder-decoder's files tell the layers of its stacks apart."""
    return by_kind(
        model, lambda _: (), lambda seq2seq: STORED_IN[seq2seq.cfg.original_architecture]
    )


def load_like(folder: Path, model: Model) -> Model:
    """Load a written folder in the number format and onto the device of a loaded model."""
    weights = model.W_E
    dtype = str(weights.dtype).removeprefix("torch.")
    backend = HUGGING_FACE if runs_original_modules(model) else "auto"
    return load_model(folder, dtype=dtype, device=str(weights.device), backend=backend)
