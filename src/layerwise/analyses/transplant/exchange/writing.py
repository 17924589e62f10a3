"""The base with layers of the other, written as a model folder, with a recipe for mergekit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from layerwise.analyses.shared.written_model import PLACE, taking_their_place
from layerwise.errors import UserError
from layerwise.ground.regular_files import read_regular
from layerwise.models import weights_hash
from layerwise.models.files.written_folder import (
    WRITTEN,
    tensor_names,
    tensor_names_by_file,
    write_exchanged_folder,
)
from layerwise.models.huggingface.folder import read_config
from layerwise.models.instance.kinds import Model, is_seq2seq, original_model, runs_original_modules
from layerwise.models.libraries.quiet import quiet
from layerwise.models.own_files import load_like, model_folder, stored_stacks
from layerwise.models.weights.quantization import read_quantization
from layerwise.storage.file_list import file_hashes, states
from layerwise.storage.places import refuse_unusable_folder
from layerwise.storage.written import refuse_other_files

from .names import ACTIVATIONS
from .parts import site_weights
from .spec import TransplantSpec
from .weights import use_donor_weights

RECIPE, MADE = "mergekit.yaml", "transplant.json"
"""The recipe, and what the folder was made of, with the hashes of its files."""


def refuse_one_folder(out: str | Path | None, write: str | Path | None) -> None:
    """Refuse a run's folder that the model would be written into, or that others' files are in."""
    if out is None or write is None:
        return
    # Path.resolve raises for a link to itself, which is refused where it is to be written.
    run, model = (Path(os.path.realpath(folder)) for folder in (out, write))
    if model.is_relative_to(run):
        raise UserError(
            f"The model would be written into the folder of the run, {out}: expected a folder of "
            "its own; choose another for one of them."
        )
    refuse_other_files(Path(out))


def write_merged_model(base: Model, other: Model, spec: TransplantSpec, out: Path) -> None:
    """Write the base with what is exchanged as a Hugging Face folder, and compare it with that.

    A folder that an earlier call wrote of the same models and layers stays as it is.
    """
    if spec.site not in WRITTEN or spec.exchange == (ACTIVATIONS,):
        what = "activations" if spec.exchange == (ACTIVATIONS,) else f"site {spec.site!r}"
        raise UserError(
            f"A model with {what} of another cannot be written; expected weights of "
            f"{', '.join(name for name in WRITTEN if name != 'tied_embed')}."
        )
    made = {
        "base": weights_hash(base), "other": weights_hash(other), "site": spec.site,
        "layers": list(spec.layers),
    }  # fmt: skip
    refuse_unusable_folder(out, "a folder to write")
    if _is_there(out, made):
        return
    folders = [model_folder(model) for model in (base, other)]
    if any(map(read_quantization, folders)):
        raise UserError(
            "The exchange cannot be written, since a model's files hold quantized weights: "
            "expected numbers, tensor by tensor; load both from unquantized weights, or leave "
            "write out."
        )
    with quiet():
        config = read_config(folders[0])
    stored = {name for of in tensor_names_by_file(folders[0]).values() for name in of}
    names, original = None, original_model(base) if runs_original_modules(base) else None
    if original is not None:
        moved = {id(part.weight) for part in site_weights(base, spec.site, spec.layers)}
        names = [name for name, weight in original.named_parameters() if id(weight) in moved]
    if names is None or not stored.issuperset(names):  # experts are stored one by one
        names = tensor_names(folders[0], config, spec.site, spec.layers, stored_stacks(base))
    with taking_their_place(out, parents=True) as place:
        write_exchanged_folder(folders[0], folders[1], names, place)
        if not is_seq2seq(base):
            dtype = str(base.W_E.dtype).removeprefix("torch.")
            (place / RECIPE).write_text(recipe(folders[0], folders[1], names, dtype), "utf-8")
        _refuse_other_weights(base, other, spec, place)
        files = file_hashes(place, os.listdir(place))
        content = json.dumps(made | {"files": files}, indent=2) + "\n"
        (place / MADE).write_text(content, "utf-8")


def _is_there(out: Path, made: dict[str, Any]) -> bool:
    """True if the folder is that of the same call; what a killed one left there is removed."""
    shutil.rmtree(out / PLACE, ignore_errors=True)
    if not out.is_dir() or not any(out.iterdir()):
        return False
    try:
        known = json.loads(read_regular(out / MADE))
        files = known.pop("files")
    except (OSError, ValueError, KeyError, AttributeError):
        known, files = None, {}
    if known != made:
        raise UserError(
            f"{out} is not empty: expected a new or empty folder for the model, or that of the "
            "same exchange; choose another."
        )
    return set(states(out, files).values()) == {"ok"}


def _refuse_other_weights(base: Model, other: Model, spec: TransplantSpec, place: Path) -> None:
    """Accept only a written model that has exactly the weights of the exchange in memory."""
    written = load_like(place, base)
    weights = dict(written.named_parameters())
    with use_donor_weights(base, other, spec.site, spec.layers, heads=spec.heads):
        for name, weight in base.named_parameters():
            if not torch.equal(weight.data, weights[name].data):
                raise UserError(
                    "The written model is not the exchange in memory: the weight "
                    f"{name} differs, since the names of this model's tensors do not show their "
                    "parts; exchange whole layers, or do not write the model."
                )


def recipe(base: Path, other: Path, names: Sequence[str], dtype: str) -> str:
    """The same exchange as a configuration of mergekit, a linear merge with weights 0 and 1.

    A passthrough of slices would take embeddings and the unembedding from the models of the first
    and the last layer, which the exchange does not.
    """
    lines = [
        "# Linear, for a passthrough of slices takes embeddings and the unembedding from the",
        "# models of the first and the last layer.",
        "merge_method: linear",
        "models:",
    ]
    for folder, inside in ((base, 0), (other, 1)):
        lines += [
            f"  - model: {json.dumps(str(folder))}",
            "    parameters:",
            "      weight:",
        ]
        for name in names:
            lines += [f"        - filter: {json.dumps(name)}", f"          value: {inside}"]
        lines.append(f"        - value: {1 - inside}")
    return "\n".join([*lines, f"base_model: {json.dumps(str(base))}", f"dtype: {dtype}", ""])
