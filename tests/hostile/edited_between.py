"""Edits between a kill and the same command again, and the commands that they are tried on.

Each command runs in a folder with task files and a model whose chat template knows the date. How
they are killed is in ``killer``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.analysis import word_task, write_jsonl
from tests.hostile.fork_server import Ended, ForkServer
from tests.hostile.killed_commands import BUDGET, TASKS, model_of
from tests.hostile.killer import Command
from tests.hostile.limits import is_sentence
from tests.hostile.moments import Moment
from tests.hostile.same_outcome import differences

N_ITEMS, LIMIT = 5, 3
DATED = "{{ strftime_now('%d %b') }}: {% for turn in messages %}{{ turn['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Edit:
    """Something that changes between a kill and the same command again.

    Attributes:
        name: what it is called in the tests.
        make: changes what is in the folder where the command is run.
        days: by how many days the clock goes on.
    """

    name: str
    make: Callable[[Path], object] = lambda folder: None
    days: int = 0


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _questions(folder).read_text("utf-8").splitlines()]


def _questions(folder: Path) -> Path:
    return folder / f"{TASKS[0]}.jsonl"


def _write(folder: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    _questions(folder).write_text(text, "utf-8")


def _without(number: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        lines = _lines(folder)
        del lines[number]
        _write(folder, lines)

    return make


def _capability(folder: Path) -> None:
    _write(folder, [line | {"capability": "reasoning"} for line in _lines(folder)])


def _beyond_the_limit(folder: Path) -> None:
    *lines, last = _lines(folder)
    _write(folder, [*lines, last | {"answer": last["choices"][-1]}])


def _template(folder: Path) -> None:
    (folder / "model" / "chat_template.jinja").write_text(f"{DATED}!")


EDITS = (
    Edit("an item is removed", _without(0)),
    Edit("an item beyond the limit is removed", _without(-1)),
    Edit("an item beyond the limit is changed", _beyond_the_limit),
    Edit("the capability is another", _capability),
    Edit("the chat template is another", _template),
    Edit("the date in the template is another", days=1),
)


def edited_commands() -> list[Command]:
    """Commands that ask some items of each task in a chat template."""
    return [
        _command("ablate"),
        _command("lens"),
        _command("attribution"),
        _command("similarity"),
        _command("remove", "--layers", 1),
        _command("prune", "--remove", 1),
        _command("profile", "--pairs", 1),
    ]


def _command(name: str, *options: object) -> Command:
    tasks = [word for task in TASKS for word in ("--task", f"{task}.jsonl")]
    args = (name, "model", *tasks, "--limit", LIMIT, "--chat", "--protocol", "continuation")
    return Command(f"{name}-edited", (*args, *options, *BUDGET, "--out", "run"), _prepare)


def _prepare(folder: Path) -> None:
    for seed, name in enumerate(TASKS):
        write_jsonl(folder / f"{name}.jsonl", word_task(N_ITEMS, name, seed).items)
    shutil.copytree(model_of("decoder"), folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(DATED)


def again(
    servers: tuple[ForkServer, ForkServer],
    command: Command,
    edit: Edit,
    drawn: Iterator[Moment],
    folder: Path,
) -> tuple[Moment, Ended, str]:
    """Kill a command, make an edit, give it again; the moment, how it ended, and what is wrong.

    Nothing is wrong if it is refused in a sentence and keeps its run, or if its files are those
    of a command that was first given after the edit.

    Args:
        servers: start what is not killed, and what is.
        command: the command.
        edit: the edit.
        drawn: moments.
        folder: for both; made anew, and removed.
    """
    calm, killing = servers
    place, moment = command.place(folder / "killed"), next(drawn)
    killing.run(command.args, place, moment)
    edit.make(place)
    known = _runs(place)
    ended = killing.run(command.args, place, days=edit.days)
    if ended.code == 2:
        kept = known == _runs(place) and is_sentence(ended.err.strip().removeprefix("layerwise: "))
        wrong = "" if kept and "holds a run with other settings" in ended.err else "refused badly"
    else:
        fresh = command.place(folder / "fresh")
        edit.make(fresh)
        calm.run(command.args, fresh, days=edit.days)
        wrong = ", ".join(differences(place, fresh)) if ended.code == 0 else "ended badly"
    shutil.rmtree(folder)
    return moment, ended, wrong


def _runs(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("run.json")}
