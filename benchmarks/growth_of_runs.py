"""Growth of the processor time of runs and plans: items, options, tasks, layers, runs compared.

A tiny random decoder answers made-up questions, so that nearly all time is this package's own
and not the model's. Each point is a process of its own, whose memory is told as well.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from growth import slope
from machine import machine
from measuring import markdown
from transformers import LlamaConfig, LlamaForCausalLM

from layerwise import ablate, compare, load_model
from layerwise.models import original_tokenizer
from layerwise.models.decoder.load import hooked_decoder
from layerwise.models.decoder.model import DecoderModel
from layerwise.planning import plan_run
from layerwise.results import AblationResult
from layerwise.tasks import GenerateSpec, Item, Task, load_task

MIB = 2**20
VARIED = {
    "items": (1250, 5000, 20_000),
    "planned": (3500, 14_000),
    "options": (16, 64, 256),
    "tasks": (4, 16, 64),
    "layers": (32, 128, 512),
    "runs": (2, 4, 8),
}
QUICK = {
    "items": (8, 16),
    "planned": (8, 16),
    "options": (2, 4),
    "tasks": (1, 2),
    "layers": (1, 2),
    "runs": (2, 3),
}
BASE = {"options": {"items": 32}, "tasks": {"items": 32}, "layers": {"items": 8},
        "runs": {"items": 8}}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """The size of an ablation under ``continuation``.

    Attributes:
        items: of each task.
        options: of each item.
        tasks: how many.
        layers: of the model.
        planned: items of a task that is planned and not run; 0 for a run.
        runs: how many runs are compared, of the toy language's decoder; 1 compares none.
    """

    items: int = 200
    options: int = 4
    tasks: int = 1
    layers: int = 1
    planned: int = 0
    runs: int = 1


@dataclass(frozen=True)
class StageCosts:
    """Processor seconds by stage, and the peak of resident memory of the process, in bytes."""

    load: float
    run: float
    tables: float
    comparison: float
    peak: int


def random_decoder(layers: int, folder: Path) -> tuple[DecoderModel, Any]:
    """A random decoder that reads the toy language's words, and its tokenizer; saved, too."""
    tokenizer: Any = original_tokenizer(load_model("organism-decoder"))
    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=16, max_position_embeddings=1024,
        num_attention_heads=2, num_key_value_heads=2, intermediate_size=16,
        vocab_size=len(tokenizer), tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = LlamaForCausalLM(config).eval()
    original.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return hooked_decoder(original, tokenizer, "random"), tokenizer


def make_task(number: int, size: Size, words: Sequence[str]) -> Task:
    """Questions of eight random words, whose options are one or two of them."""
    random = np.random.default_rng(number)
    pairs = [" ".join(dict.fromkeys((one, two))) for one in words for two in words]
    items = []
    for index in range(size.items):
        question = " ".join(words[i] for i in random.choice(len(words), 8))
        drawn = random.choice(len(pairs), size.options, replace=False)
        choices = tuple(pairs[i] for i in drawn)
        gold = choices[int(random.integers(size.options))]
        items.append(Item(f"{number}/{index}", question, gold, choices))
    chance = dict.fromkeys(("letter", "continuation"), 1 / size.options)
    spec = GenerateSpec((";",), 2, "first_line")
    name = f"task {number}"
    return Task(name, "knowledge", "random words", tuple(items), (), spec, chance)


def measure(size: Size) -> StageCosts:
    """Load, run, make tables and compare; wants a process of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model, tokenizer = random_decoder(size.layers, place / "model")
        words = sorted(word for word in tokenizer.get_vocab() if word[0] in "kv")
        tasks: list[Task] = [make_task(number, size, words) for number in range(size.tasks)]
        times = [time.process_time()]
        load_model(str(place / "model"))
        times.append(time.process_time())
        if size.planned:
            plan_run(model, make_task(0, replace(size, items=size.planned), words), "continuation")
            return StageCosts(
                times[1] - times[0], time.process_time() - times[1], 0.0, 0.0, _peak()
            )
        if size.runs > 1:  # a random model has no signal, and nothing to compare
            model, tasks = load_model("organism-decoder"), [load_task("organism-lookup")]
        layers = None if size.runs > 1 else [0]
        found = ablate(
            model, tasks, "continuation", layers=layers, progress=False, memory_budget=64 * MIB
        )
        times.append(time.process_time())
        found.effects()
        found.signal()
        times.append(time.process_time())
        if size.runs > 1:
            compare(save_copies(found, size.runs, place), n_resamples=1000)
        times.append(time.process_time())
    load, run, tables, comparison = np.diff(times).tolist()
    return StageCosts(load, run, tables, comparison, _peak())


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def save_copies(found: AblationResult, n: int, folder: Path) -> list[Path]:
    """The result saved ``n`` times, as if each were of a model of its own."""
    paths = [folder / f"run {number}" for number in range(n)]
    for number, path in enumerate(paths):
        other = {"name": f"model {number}", "hash": f"{number:064x}"}
        model = found.facts.model.model_copy(update=other)
        facts = found.facts.model_copy(update={"model": model})
        replace(found, facts=facts).save(path)
    return paths


def results(varied: dict[str, tuple[int, ...]]) -> pd.DataFrame:
    """A row per point: what was varied, its value, the sizes, seconds and memory."""
    points = [
        (name, value, replace(replace(Size(), **BASE.get(name, {})), **{name: value}))
        for name in varied
        for value in varied[name]
    ]
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        spent = list(pool.map(measure, [size for _, _, size in points]))
    return pd.DataFrame(
        {"varied": name, "value": value, **asdict(size), **asdict(one)}
        for (name, value, size), one in zip(points, spent, strict=True)
    )


def table(frame: pd.DataFrame) -> str:
    """The points in Markdown; exponents are of what grows, from each value to the next."""
    head = "varied|value|load, s|run, s|tables, s|comparison, s|exponent|peak, MiB"
    rows = []
    for name, part in frame.groupby("varied", sort=False):
        stages = part[["load", "run", "tables", "comparison"]]
        of_name = {"layers": ["load", "run"], "runs": ["comparison"]}
        whole = stages[of_name.get(str(name), ["run", "tables"])].sum(axis=1).tolist()
        values = part["value"].tolist()
        for at, (row, own) in enumerate(zip(part.itertuples(), stages.to_numpy(), strict=True)):
            grown = f"{slope(values[at - 1 : at + 1], whole[at - 1 : at + 1]):.2f}" if at else ""
            rows.append([
                str(name), f"{row.value:,}", *(f"{one:.1f}" for one in own), grown,
                f"{row.peak / MIB:,.0f}",
            ])  # fmt: skip
    return markdown(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="very small sizes, as a trial")
    parser.add_argument("--only", nargs="+", choices=tuple(VARIED), help="vary these alone")
    wanted = parser.parse_args(arguments)
    sizes, started = QUICK if wanted.quick else VARIED, time.perf_counter()
    where = machine()
    frame = results({name: sizes[name] for name in wanted.only or sizes})
    print(f"{table(frame)}\n\n{where} The whole took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
