"""An adapter folder, such as LoRA's: what its files say, judged without loading weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, short_repr
from layerwise.ground.limited import LimitedProcess, OverLimitError
from layerwise.ground.limited_jobs import json_texts

from .stored_weights import INDEX, WEIGHTS, read_json_object

CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KINDS = ("LORA", "LOHA", "LOKR", "IA3")
"""Names in peft of the kinds that can be merged and are tested against their un-merged models."""

# These add tokens, keys or whole paths to a forward pass.
_NOT_WEIGHTS = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE",
    "ADAPTION_PROMPT", "POLY", "XLORA",
)  # fmt: skip
_TASKS = {None: (False, True), "CAUSAL_LM": (False,), "SEQ_2_SEQ_LM": (True,)}
# How weights were set before training; what was trained is in the file.
_OF_TRAINING = frozenset({
    "auto_mapping", "corda_config", "eva_config", "inference_mode", "init_lora_weights",
    "init_weights", "loftq_config", "lora_ga_config", "runtime_config",
})  # fmt: skip
# They change more than weights, or name a module to be imported.
_REFUSED = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication",
    "megatron_config", "monteclora_config", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
_PLAIN = re.compile(r"[\w./: -]*")  # a name, which is quickly matched
_LEAVES_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapter:
    """Content of an adapter folder."""

    folder: Path  # where it is
    fields: dict[str, Any]  # its configuration, without what only tells how training began

    @property
    def kind(self) -> str:
        """Name of its kind in peft, such as ``LORA``."""
        return self.fields["peft_type"]

    @property
    def base(self) -> str:
        """The name of the model that it adapts, as it stands there."""
        return self.fields["base_model_name_or_path"]

    @property
    def words(self) -> str:
        """Its kind and rank in a few words."""
        rank = self.fields.get("r")
        kind = "DoRA" if self.fields.get("use_dora") else self.kind
        return f"{kind} of rank {rank}" if isinstance(rank, int) else kind


def is_adapter(folder: Path) -> bool:
    """True if a folder holds an adapter of a model."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder's configuration; refuse adapters that cannot be merged."""
    fields = read_json_object(folder / CONFIG)
    if any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise UserError(
            f"{folder} holds both a whole model and an adapter ({CONFIG}): expected one of them; "
            "move the other to a folder of its own."
        )
    _refuse_kinds(folder, fields)
    _refuse_forms(folder, fields)
    _require_weights(folder)
    base = fields.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{folder / CONFIG} does not say which model it adapts: expected "
            "base_model_name_or_path, a path (from that folder on, or absolute), an alias or a "
            "hub id; add it."
        )
    return Adapter(folder, {key: fields[key] for key in fields.keys() - _OF_TRAINING})


def refuse_other_task(adapter: Adapter, *, is_encoder_decoder: bool) -> None:
    """Accept only an adapter for the kind of model that its base is."""
    task = adapter.fields.get("task_type")
    if not isinstance(task, str | None) or is_encoder_decoder not in _TASKS.get(task, ()):
        wanted = "SEQ_2_SEQ_LM" if is_encoder_decoder else "CAUSAL_LM"
        raise UserError(
            f"The adapter in {adapter.folder} was made for another task "
            f"({short_repr(task)}) than its "
            f"base {adapter.base!r} has: expected {wanted} as task_type; use such an adapter."
        )


def refuse_unknown_fields(adapter: Adapter, known: Iterable[str], version: str) -> None:
    """Refuse fields that the installed peft would ignore."""
    unknown = sorted(adapter.fields.keys() - set(known))
    if unknown:
        raise UserError(
            f"{adapter.folder / CONFIG} has the field {unknown[0][:80]!r}, which peft {version} "
            f"does not know: expected the fields of a {adapter.kind} adapter; update peft."
        )


def refuse_costly_patterns(adapter: Adapter, names: Iterable[str]) -> None:
    """Match what may be patterns with the names of modules, in a limited process."""
    patterns = sorted({text for text in json_texts(adapter.fields) if not _PLAIN.fullmatch(text)})
    request = {"patterns": patterns, "names": sorted(set(names))}
    n_characters = len(patterns) * sum(map(len, request["names"]))
    try:
        if patterns:
            LimitedProcess("match_patterns").ask(request, n_characters)
    except OverLimitError as limit:
        raise UserError(
            f"The patterns in {adapter.folder / CONFIG} need more than {limit} for the names of "
            "the base's modules: expected names, or patterns that are quickly matched; list the "
            "names of the modules as target_modules."
        ) from limit


def _refuse_kinds(folder: Path, fields: dict[str, Any]) -> None:
    kind = fields.get("peft_type")
    if kind in KINDS:
        return
    why = "is no change of weights and cannot be merged" if kind in _NOT_WEIGHTS else "is not known"
    raise UserError(
        f"The adapter in {folder} is of the kind {short_repr(kind)}, which {why}: expected one of "
        f"{', '.join(KINDS)} as peft_type; use such an adapter."
    )


def _refuse_forms(folder: Path, fields: dict[str, Any]) -> None:
    for name in _REFUSED:
        if fields.get(name) not in (None, False, [], {}):
            raise UserError(
                f"The adapter in {folder} cannot be merged, for {CONFIG} sets {name}: expected "
                "plain low-rank weights, rsLoRA or DoRA; use such an adapter."
            )
    start = fields.get("init_lora_weights")
    if not isinstance(start, bool | str | None) or start not in _LEAVES_THE_BASE:
        raise UserError(
            f"The adapter in {folder} was trained on a changed base (init_lora_weights "
            f"{short_repr(start)}): expected an adapter of the base as it is; convert it "
            f"with peft's "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )


def _require_weights(folder: Path) -> None:
    if (folder / ADAPTER_WEIGHTS).is_file():
        return
    pickled = any(folder.glob("adapter_model.*"))
    raise UserError(
        f"The adapter in {folder} has {'only pickled' if pickled else 'no'} weights: expected "
        f"{ADAPTER_WEIGHTS}{', since pickles can run code when they are read' * pickled}; write "
        "it with save_pretrained of peft."
    )
