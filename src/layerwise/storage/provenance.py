"""Facts needed to repeat a run, as typed models and as ``run.json``.

No measurement is stored here; those are in the tables.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from layerwise.errors import DamagedResultsError, UserError
from layerwise.ground.regular_files import read_regular

from .atomic_files import write_atomically
from .file_list import FILES, files_without, refuse_edited_file_list, with_list

RUN_FILE = "run.json"
_AGAIN = "restore its folder, or delete it and give the command that made it again"
# Ten times what a model can be loaded with; figures and tables have a place for each.
_MOST_LAYERS = 10_000
_PACKAGES = ("torch", "transformer-lens", "transformers", "numpy", "layerwise")


def installed_versions() -> dict[str, str]:
    """Versions of python and of the packages that numbers depend on (underscored names)."""
    versions = {"python": platform.python_version()}
    return versions | {name.replace("-", "_"): metadata.version(name) for name in _PACKAGES}


def distinct(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries of plain JSON values, each once."""
    return list({json.dumps(entry, sort_keys=True): dict(entry) for entry in entries}.values())


def environment_differences(environments: Iterable[Mapping[str, Any]]) -> str:
    """Differences between some environments, with their values; empty if there are none."""
    every = list(environments)
    parts = []
    for name in dict.fromkeys(
        name for environment in every for name in environment if name != "machine"
    ):
        values = dict.fromkeys(str(environment.get(name, "none")) for environment in every)
        if len(values) > 1:
            parts.append(f"{name} ({', '.join(values)})")
    return ", ".join(parts)


class FrozenModel(BaseModel):
    """A frozen value with exactly these fields, for JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StampedModel(FrozenModel):
    """A value with the version and time that made it."""

    layerwise: str = Field(
        default_factory=lambda: metadata.version("layerwise"),
        description="Version of layerwise that made it.",
    )
    created: AwareDatetime = Field(
        default_factory=lambda: datetime.now(UTC), description="When, in UTC."
    )


class ModelFacts(FrozenModel):
    """The model that was measured."""

    name: str = Field(description="The name it was asked for by.")
    hash: str = Field(description="Hash of the weights, in hexadecimal.")
    source: str = Field(description="Where the weights came from, e.g. a hub id or a file.")
    n_layers: int = Field(description="Number of layers, of both stacks of an encoder-decoder.")
    n_encoder_layers: int = Field(
        default=0,
        description="How many of the layers are the encoder's; they come first in the numbering "
        "of layers. 0 for a decoder-only model.",
    )
    n_heads: int = Field(description="Number of attention heads per layer.")
    d_model: int = Field(description="Width of the residual stream.")
    d_vocab: int = Field(description="Size of the vocabulary.")
    n_ctx: int = Field(description="Longest context, in tokens.")
    n_parameters: int = Field(description="Number of parameters.")
    dtype: str = Field(description="Number format of weights and activations, e.g. float32.")
    device: str = Field(description="Where it was run, e.g. cpu.")
    parity: float | None = Field(
        description="Largest difference of log-probabilities, in nats, from the Hugging Face "
        "original on a fixed text; null if it was not compared."
    )
    attention: str = Field(description="Which attention was used, in a word, e.g. grouped-query.")
    source_hash: str = Field(
        default="",
        description="SHA-256 of the file that was asked for; of a folder, over names and contents "
        "of its files. Empty if there is none.",
    )
    conversion_hash: str = Field(
        default="",
        description="SHA-256 over the files that a GGUF file was converted to, or that an adapter "
        "and its base were merged to; empty if nothing was converted.",
    )
    adapter: str = Field(
        default="",
        description="Which adapter was merged into which base, e.g. LORA of rank 8; empty if none.",
    )
    quantization: str = Field(
        default="",
        description="How the weights in the files are quantized, and whether they stay so in "
        "memory; empty if they are not.",
    )
    gguf: str = Field(
        default="", description="Name of the GGUF file without its ending; empty if none."
    )
    verified: str = Field(
        default="",
        description="What was compared with what when the model was loaded, or that nothing was.",
    )
    backend: str = Field(
        default="",
        description="What ran the model: transformer-lens, or hugging-face for the modules of its "
        "original. Empty if unknown.",
    )
    end_tokens: tuple[int, ...] = Field(
        default=(), description="Ids of the tokens that end a generated text."
    )
    unused_generation_settings: tuple[str, ...] = Field(
        default=(),
        description="Generation settings of the model that would change greedy texts and are not "
        "used, as name=value.",
    )


IN_MEMORY = "data in memory"
"""The source of a task that was made in Python, and that no command can name."""


class TaskFacts(FrozenModel):
    """Facts of a task: items, protocols and chance levels."""

    name: str = Field(description="The suite's name.")
    capability: str = Field(description="The capability that the suite is about.")
    description: str = Field(description="What is asked, in a sentence.")
    hash: str = Field(description="Hash of the items, in hexadecimal.")
    n_items: int = Field(description="Number of items that were asked.")
    n_available: int = Field(
        default=0,
        description="Number of items that the task has; 0 if unknown.",
    )
    n_fewshot: int = Field(description="Number of worked examples in each prompt.")
    chance: dict[str, float] = Field(
        description="Accuracy by guessing, in 0..1, for each protocol by name."
    )
    source: str = Field(description="Where the items came from, e.g. built in or a file.")
    too_long: tuple[str, ...] = Field(
        default=(),
        description="Ids of items that the model's context has no room for, and that were left "
        "out (skip_long).",
    )
    extractor: str = Field(
        default="",
        description="What takes the answer from a written text; empty if unknown.",
    )


class Facts(StampedModel):
    """Everything needed to repeat a run."""

    model: ModelFacts = Field(description="Which model was measured.")
    tasks: tuple[TaskFacts, ...] = Field(description="Which questions were asked.")
    protocols: tuple[str, ...] = Field(description="How they were put to the model and scored.")
    seed: int = Field(ge=0, description="The seed of everything random, bootstraps included.")
    settings: dict[str, JsonValue] = Field(description="What was asked for, as plain values.")
    versions: dict[str, str] = Field(
        default_factory=installed_versions,
        description="Versions of python and of the packages that numbers depend on.",
    )
    work: tuple[dict[str, JsonValue], ...] = Field(
        default=(),
        description="What it cost, one entry per sweep: block passes done, those of brute "
        "force, seconds, tokens.",
    )
    machines: tuple[dict[str, JsonValue], ...] = Field(
        default=(),
        description="Of a run on several machines: each with its device and the pieces that it "
        "made; pieces that are not named were made by the process that wrote the folder.",
    )
    environments: tuple[dict[str, JsonValue], ...] = Field(
        default=(),
        description="Under which versions, threads and kernels its parts were made; several if "
        "they differ.",
    )
    files: dict[str, str] = Field(
        default={},
        description="In run.json: SHA-256 of each of the folder's files by name, and under its own "
        "name that of all else that it says. Empty in a table's metadata.",
    )

    @model_validator(mode="after")
    def _refuse_impossible(self) -> Facts:
        """Refuse what no run can say, which would fail later in the statistics or a figure."""
        model = self.model
        if not 0 <= model.n_encoder_layers < model.n_layers <= _MOST_LAYERS:
            raise ValueError(f"{model.n_layers} layers, {model.n_encoder_layers} of an encoder")
        for task in self.tasks:
            if task.n_items < 0 or not all(0 <= chance <= 1 for chance in task.chance.values()):
                raise ValueError(f"{task.n_items} items of {task.name!r}, chance {task.chance}")
        return self

    def task(self, name: str) -> TaskFacts:
        """The facts of one task.

        Raises:
            UserError: if the run had no such task.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise UserError(
            f"The run's facts do not mention task {name!r}: expected one of "
            f"{', '.join(t.name for t in self.tasks) or 'none'}; {_AGAIN}."
        )

    def chance(self, task: str, protocol: str) -> float:
        """Accuracy by guessing of a task under a protocol, in 0..1.

        Raises:
            UserError: if the facts do not say.
        """
        known = self.task(task).chance
        if protocol not in known:
            raise UserError(
                f"The run's facts give task {task!r} no chance level under protocol {protocol!r}: "
                f"expected one of {', '.join(known) or 'none'}; {_AGAIN}."
            )
        return known[protocol]


def join_facts(facts: Sequence[Facts]) -> Facts:
    """The facts of several results of one model, as one."""
    # Tasks, protocols, settings, work and environments are joined; the rest is taken from the
    # first.
    first, tasks, settings = facts[0], {}, {}
    for each in facts:
        pairs = [("model", first.model, each.model)]
        pairs += [("task", tasks.setdefault(task.name, task), task) for task in each.tasks]
        for what, one, other in pairs:
            if one.hash != other.hash:
                raise UserError(
                    f"These results do not belong together: {what} {one.name!r} has hash "
                    f"{one.hash[:12]} in one and {other.hash[:12]} in another; expected results of "
                    "the same model and items, so keep them in separate folders."
                )
        settings |= each.settings
    return first.model_copy(
        update={
            "tasks": tuple(tasks.values()),
            "protocols": tuple(dict.fromkeys(p for each in facts for p in each.protocols)),
            "settings": settings,
            "work": tuple(distinct(entry for each in facts for entry in each.work)),
            "environments": tuple(
                distinct(environment for each in facts for environment in each.environments)
            ),
        }
    )


def parse_facts(text: str | bytes, path: Path) -> Facts:
    """Facts from JSON."""
    try:
        return Facts.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DamagedResultsError(
            f"{path} does not hold the facts of a run ({where}: {first['msg']}): expected what "
            "layerwise wrote; restore the file, or delete the folder and give the same command "
            "again."
        ) from error


def read_run_file(folder: Path) -> dict[str, Any]:
    """``run.json`` as plain values; of an unfinished run it has little more than settings."""
    path = folder / RUN_FILE
    try:
        content = json.loads(read_regular(path))
        if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
            raise ValueError("no settings")
    except FileNotFoundError as error:
        raise UserError(
            f"No {RUN_FILE} in {folder}: expected the folder of a run; check the path."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read: expected the JSON that layerwise wrote; "
            "restore it, or delete the folder and give the same command again."
        ) from error
    if FILES in content or is_finished(content):
        refuse_edited_file_list(content, path)
    return content


def write_run_file(folder: Path, content: Facts | dict[str, Any], files: dict[str, str]) -> None:
    """Write ``run.json``, with a list of the folder's files."""
    plain = json.loads(content.model_dump_json()) if isinstance(content, Facts) else content
    write_atomically(folder / RUN_FILE, with_list(plain, RUN_FILE, files))


def listed_files(folder: Path) -> dict[str, str] | None:
    """SHA-256 by name of the files of a finished run, as ``run.json`` lists them."""
    # None if there is no ``run.json``, or the run is not finished.
    if not (folder / RUN_FILE).exists():
        return None
    run = read_run_file(folder)
    return files_without(run, RUN_FILE) if is_finished(run) else None


def is_finished(run: dict[str, Any]) -> bool:
    """True if ``run.json`` is that of a finished run."""
    return run.get("finished", True) is not False


def read_facts(folder: Path) -> Facts:
    """The facts of a finished run."""
    run = read_run_file(folder)
    if not is_finished(run):
        raise UserError(
            f"The run in {folder} is not finished: expected a finished one; "
            "give the same command again and it continues where it stopped."
        )
    facts = parse_facts(json.dumps(run), folder / RUN_FILE)
    return facts.model_copy(update={"files": {}})
