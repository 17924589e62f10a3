"""Every command that writes, on tiny random models, in the smallest form that has several pieces.

Each runs in a folder of its own, where its task files are, and writes to ``run`` there.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from tests import commands
from tests.analysis import word_task, write_jsonl
from tests.hostile.killer import Command
from tests.models.seq2seq.tiny import tiny_folder as tiny_seq2seq_folder
from tests.models.tiny import session_folder

TASKS = ("keys", "doors")
N_ITEMS = 3
BUDGET = ("--memory-budget", "256MiB")  # what is free may be something else at the next start


def kind_model(kind: str) -> Path:
    """The folder of a tiny random ``decoder`` or ``seq2seq``."""
    return commands.model_folder() if kind == "decoder" else tiny_seq2seq_folder("t5")


def questions(folder: Path) -> None:
    """Put two task files into a folder."""
    for seed, name in enumerate(TASKS):
        write_jsonl(folder / f"{name}.jsonl", word_task(N_ITEMS, name, seed).items)


def _task_args(*tasks: str) -> list[str]:
    return [word for name in tasks for word in ("--task", f"{name}.jsonl")]


def _on_questions(kind: str, name: str, *options: object) -> Command:
    args = (name, kind_model(kind), *_task_args(*TASKS), *options, *BUDGET, "--out", "run")
    return Command(f"{name}-{kind}", args, questions)


def _on_pairs(kind: str, name: str, *options: object, budget: bool = True) -> Command:
    tasks = ("--task", "facts", "--fewshot", 0, "--pairs", 1)
    limited = BUDGET if budget else ()
    return Command(
        f"{name}-{kind}", (name, kind_model(kind), *tasks, *options, *limited, "--out", "run")
    )


def _layer(kind: str) -> str:
    return "1" if kind == "decoder" else "encoder.1"


def model_commands(kind: str) -> list[Command]:
    """The commands that run a model, for a ``decoder`` or a ``seq2seq``."""
    pruned = ("--remove", _layer(kind), "--protocol", "continuation")
    return [
        _on_questions(kind, "ablate", "--protocol", "letter", "--protocol", "generate"),
        _on_questions(kind, "lens", "--protocol", "continuation"),
        _on_pairs(kind, "patch", "--site", "resid_post"),
        _on_pairs(kind, "path-patch", budget=False),
        _on_pairs(kind, "attribution-patch", "--site", "attn_out", "--sample", 4),
        _on_questions(kind, "attribution", "--protocol", "continuation"),
        _on_questions(kind, "similarity", "--protocol", "continuation"),
        _on_questions(kind, "remove", "--layers", 1, "--by", "greedy"),
        _on_questions(kind, "prune", *pruned),
        _on_questions(kind, "profile", "--protocol", "continuation", "--pairs", "1"),
        _on_questions(kind, "interactions", "--protocol", "continuation"),
        Command(
            f"transplant-{kind}",
            ("transplant", f"organism-{kind}", f"organism-{kind}-1", "--task", "organism-lookup",
             "--limit", 4, "--protocol", "continuation", *BUDGET, "--out", "run"),
        ),
        Command(
            f"decide-{kind}",
            ("decide", f"organism-{kind}", "--task", "organism-lookup", "--limit", 40,
             "--protocol", "continuation", "--round-items", 8, *BUDGET, "--out", "run"),
        ),
        Command(
            f"heal-{kind}",
            ("heal", "pruned", *_task_args(TASKS[0]),
             "--text", "texts.txt", "--protocol", "continuation", "--steps", 4, "--batch", 2,
             *BUDGET, "--out", "run"),
            _prepare_pruned(kind),
        ),
        Command(
            f"distill-{kind}",
            ("distill", kind_model(kind), kind_model(kind), *_task_args(TASKS[0]),
             "--text", "texts.txt", "--protocol", "continuation", "--steps", 4, "--batch", 2,
             "--on-policy", 0.5, *BUDGET, "--out", "run"),
            _texts,
        ),
        Command(
            f"train-lens-{kind}",
            ("train-lens", kind_model(kind), *_task_args(TASKS[0]),
             "--text", "texts.txt", "--steps", 5, *BUDGET, "--out", "run"),
            _texts,
        ),
        *([Command("text-loss", ("text-loss", kind_model(kind), "--text", "texts.txt",
                                 "--pieces", 3, *BUDGET, "--out", "run"), _texts)]
          if kind == "decoder" else []),
        Command(f"heads-{kind}", ("heads", kind_model(kind), "--sequences", 2, "--length", 8,
                                  "--out", "run")),
    ]  # fmt: skip


def joining_commands() -> list[Command]:
    """The commands that read what others wrote: they run no model."""
    return [
        Command("report", ("report", "decoder"), _runs("decoder")),
        Command("report-of-two", ("report", "decoder", "seq2seq", "--out", "run/page.html"),
                _runs("decoder", "seq2seq")),
        Command("compare", ("compare", "decoder", "seq2seq", "--resamples", 200, "--out", "run"),
                _runs("decoder", "seq2seq")),
    ]  # fmt: skip


def _texts(folder: Path) -> None:
    questions(folder)
    lines = [f"the {n} key opens the {n} door and the {n % 7} red one" for n in range(12)]
    (folder / "texts.txt").write_text("\n\n".join(lines))


def _prepare_pruned(kind: str):
    def prepare(folder: Path) -> None:
        _texts(folder)
        shutil.copytree(pruned_model(kind), folder / "pruned")

    return prepare


def _runs(*kinds: str):
    def prepare(folder: Path) -> None:
        for kind in kinds:
            shutil.copytree(finished_run_folder(kind), folder / kind)

    return prepare


@functools.cache
def finished_run_folder(kind: str) -> Path:
    """The folder of an organism's ablation, made once a session; do not change it."""
    folder = session_folder() / kind
    commands.run_cleanly(
        "ablate", f"organism-{kind}", "--task", "organism-lookup", "--limit", 8,
        "--protocol", "continuation", *BUDGET, "--out", folder,
    )  # fmt: skip
    return folder


@functools.cache
def pruned_model(kind: str) -> Path:
    """The folder of a tiny random model without a layer, made once a session; do not change it."""
    place = session_folder() / f"pruning-{kind}"
    place.mkdir()
    questions(place)
    commands.run_cleanly(
        "prune", kind_model(kind), "--remove", _layer(kind), "--task", place / f"{TASKS[0]}.jsonl",
        "--protocol", "continuation", *BUDGET, "--out", place / "pruned",
    )  # fmt: skip
    return place / "pruned"
