"""Every kind of file that the package reads, and how each is read.

They are written once a session, from tiny random models; ``flipper`` damages them.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from layerwise.analyses.ablation.api import ablate
from layerwise.analyses.logit_lens.api import logit_lens
from layerwise.analyses.shared.translators import TunedLens
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.analyses.verifying import verify
from layerwise.errors import DamagedFileWarning, MadeAgainWarning, UserError
from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.results import load, read_facts
from layerwise.tasks import load_task
from tests.analysis import word_task, write_jsonl
from tests.hostile.flipper import FlippedFile, Reading
from tests.hostile.same_outcome import contents
from tests.models.seq2seq.tiny import tiny_folder as tiny_seq2seq_folder
from tests.models.test_gguf import write_gguf
from tests.models.tiny import TEXT, session_folder, tiny_folder, tiny_model
from tests.stopping import stop_after

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
N_TOKENS = 24
BUDGET = 2**28


@contextmanager
def cache_folder(folder: Path) -> Iterator[None]:
    """Let the package use a cache folder of its own."""
    with mock.patch.dict(os.environ, {"LAYERWISE_CACHE": str(folder)}):
        yield


@torch.inference_mode()
def read_model(path: Path, cache: Path, **options: Any) -> Reading:
    """Read what a model says of itself and of a text, and all hashes that it is known by."""
    with cache_folder(cache):
        model = load_model(path, **options)
        facts = asdict(model_facts(model))
        tokenizer = original_tokenizer(model)
        ids = tokenizer(TEXT).input_ids[: min(N_TOKENS, model.cfg.n_ctx)]
        logits = model(torch.tensor([ids])) if "seq2seq" not in str(path) else _answer(model, ids)
    numbers = (ids, tokenizer.decode(ids), logits.numpy().tobytes(), facts)
    return Reading(numbers, {name: value for name, value in facts.items() if "hash" in name})


def _answer(model: Any, ids: list[int]) -> torch.Tensor:
    half = len(ids) // 2
    given, said = torch.tensor([ids[:half]]), torch.tensor([ids[half:]])
    return model.original(input_ids=given, decoder_input_ids=said).logits


def read_results(folder: Path) -> Reading:
    """All tables of a finished run with the facts of each, and those of the run."""
    found = []
    with warnings.catch_warnings():
        for told in (MadeAgainWarning, DamagedFileWarning):
            warnings.simplefilter("ignore", told)
        results = load(folder)
    for result in results:
        tables = {name: getattr(result, name) for name in result.tables} | result.derived_tables()
        texts = {name: repr(table.to_dict("list")) for name, table in tables.items()}
        found.append((texts, result.facts.model_dump_json()))
    return Reading((found, read_facts(folder).model_dump_json()))


def read_verification(folder: Path) -> Reading:
    """Read what ``layerwise verify`` says of a folder."""
    found = verify(folder)
    if not found.ok:
        raise UserError(found.sentence)
    return Reading(found.sentence)


def read_lens(path: Path) -> Reading:
    """A tuned lens: its translators, and what it says of itself."""
    lens = TunedLens.load(path)
    weight = None if lens.weight is None else lens.weight.numpy().tobytes()
    return Reading((weight, lens.bias.numpy().tobytes(), lens.facts), lens.hash)


def read_task(path: Path) -> Reading:
    """A user's questions, and their hash as results tell it."""
    task = load_task(str(path))
    return Reading(repr(task), task.hash)


def read_resumed_run(unfinished: Path) -> Reading:
    """All files of a run that goes on from its parts."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        shutil.copytree(unfinished, folder)
        finish_small_run(folder)
        return Reading(contents(folder))


def finish_small_run(folder: Path) -> None:
    """A small ablation in a folder, or the rest of one that was stopped there."""
    tasks = [word_task(2, "keys"), word_task(2, "doors", seed=1)]
    ablate(
        tiny_model("llama", **SMALL), tasks, "letter", out=folder, memory_budget=BUDGET,
        progress=False,
    )  # fmt: skip


def _unfinished_run() -> Path:
    """A run that was stopped while it wrote its last part."""
    folder = _new_folder("unfinished") / "run"
    with stop_after(3):
        finish_small_run(folder)
    return folder


def _new_folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=session_folder()))


def _files_to_flip(
    name: str, folder: Path, read: Callable[[], Reading], defines_input: bool = False
) -> Iterator[FlippedFile]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield FlippedFile(f"{name}/{path.name}", path, read, defines_input)


def _records(name: str, cache: Path, read: Callable[[], Reading]) -> Iterator[FlippedFile]:
    """One file of each kind of record in a cache folder."""
    for kind in ("checks", "hashes"):
        for path in sorted((cache / kind).glob("*.json"))[:1]:
            yield FlippedFile(f"{name}/{kind}.json", path, read)


def _models() -> Iterator[FlippedFile]:
    place = _new_folder("plain")
    folder, cache = tiny_folder(place, "llama", **SMALL), place / "cache"
    read = functools.partial(read_model, folder, cache)
    read()
    yield from _files_to_flip("model", folder, read, defines_input=True)
    yield from _records("model cache", cache, read)


def _shards() -> Iterator[FlippedFile]:
    from transformers import AutoModelForCausalLM

    place = _new_folder("shards")
    folder, cache = tiny_folder(place, "llama", **SMALL), place / "cache"
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    read = functools.partial(read_model, folder, cache)
    shards = sorted(folder.glob("*.safetensors"))
    yield FlippedFile("shards/index.json", next(folder.glob("*.index.json")), read, True)
    yield FlippedFile("shards/one.safetensors", shards[0], read, True)


def _seq2seq() -> Iterator[FlippedFile]:
    place = _new_folder("seq2seq")
    folder = place / "model"
    shutil.copytree(tiny_seq2seq_folder("t5"), folder)
    read = functools.partial(read_model, folder, place / "cache")
    yield from _files_to_flip("seq2seq", folder, read, defines_input=True)


def _gguf() -> Iterator[FlippedFile]:
    place = _new_folder("gguf")
    path, cache = write_gguf(place / "tiny.gguf"), place / "cache"
    read = functools.partial(read_model, path, cache)
    read()
    yield FlippedFile("file.gguf", path, read, defines_input=True)
    yield from _files_to_flip("conversion", cache / "gguf", read)


def _offloaded_files() -> Iterator[FlippedFile]:
    place = _new_folder("offloaded")
    folder, cache = tiny_folder(place, "llama", **SMALL), place / "cache"
    read = functools.partial(read_model, folder, cache, offload="disk")
    read()
    yield from _files_to_flip("off-loaded", cache / "offload", read)


def _run_folder() -> Path:
    """A folder with an ablation and what a lens read."""
    folder = _new_folder("finished") / "run"
    finish_small_run(folder)
    logit_lens(
        tiny_model("llama", **SMALL), word_task(2, "keys"), "continuation", progress=False,
        memory_budget=BUDGET,
    ).save(folder)  # fmt: skip
    return folder


def _measured_files() -> Iterator[FlippedFile]:
    folder = _run_folder()
    for name in ("records.parquet", "lens.parquet", "run.json"):
        yield FlippedFile(f"results/{name}", folder / name, functools.partial(read_results, folder))
    yield from _files_to_flip("verified", folder, functools.partial(read_verification, folder))


def _derived_files() -> Iterator[FlippedFile]:
    folder = _run_folder()
    for name in ("estimates", "prediction_depth"):
        path = folder / f"{name}.parquet"
        yield FlippedFile(f"results/{name}", path, functools.partial(read_results, folder))


def _parts() -> Iterator[FlippedFile]:
    folder = _unfinished_run()
    read = functools.partial(read_resumed_run, folder)
    yield FlippedFile("unfinished run.json", folder / "run.json", read)
    for path in sorted((folder / "parts").iterdir())[:2]:
        yield FlippedFile(f"part {path.stem}", path, read)


def _lenses() -> Iterator[FlippedFile]:
    for kind in ("full", "bias"):
        place = _new_folder("lens")
        texts, folder = place / "texts.txt", place / "run"
        texts.write_text("\n\n".join(f"the {n} key opens the {n % 7} door" for n in range(12)))
        train_lens(
            tiny_model("llama", **SMALL), word_task(2, "keys"), text=texts, kind=kind, steps=2,
            out=folder, memory_budget=BUDGET, progress=False,
        )  # fmt: skip
        path = folder / "tuned_lens.safetensors"
        yield FlippedFile(f"{kind} lens", path, functools.partial(read_lens, path))


def _questions() -> Iterator[FlippedFile]:
    path = write_jsonl(_new_folder("questions") / "keys.jsonl", word_task(12, "keys").items)
    yield FlippedFile(
        "questions.jsonl", path, functools.partial(read_task, path), defines_input=True
    )


QUICK: dict[str, Callable[[], Iterator[FlippedFile]]] = {
    "results": _measured_files,
    "lenses": _lenses,
    "questions": _questions,
}
"""Files that are read in milliseconds."""

SLOW: dict[str, Callable[[], Iterator[FlippedFile]]] = {
    "derived results": _derived_files,
    "models": _models,
    "shards": _shards,
    "encoder-decoders": _seq2seq,
    "gguf": _gguf,
    "off-loaded": _offloaded_files,
    "parts": _parts,
}
"""Files for which a model is loaded, or a run made."""
