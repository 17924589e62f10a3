"""Kills a command again and again, gives it again until it ends, and says what differs then.

Which commands there are is in ``killed_commands``; the moments are those of ``moments``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.commands import without_notes
from tests.hostile.fork_server import CommandEnd, ForkServer
from tests.hostile.moments import Course, Moment
from tests.hostile.same_outcome import differences

KILLS_AT_MOST = 3


@dataclass(frozen=True)
class Command:
    """A command that is killed; ``out`` in its arguments is the folder that it writes."""

    name: str
    args: tuple[object, ...]
    prepare: Callable[[Path], None] = lambda folder: None

    def place(self, folder: Path) -> Path:
        """A new folder with what the command needs."""
        folder.mkdir(parents=True)
        self.prepare(folder)
        return folder


@dataclass(frozen=True)
class KilledCommand:
    """A killed command: its moment, its end at last, and files unlike those of a calm run."""

    moments: tuple[Moment, ...]
    ended: CommandEnd
    differing: tuple[str, ...]


def run_undisturbed(server: ForkServer, command: Command, folder: Path) -> Course:
    """Run a command to its end, which must be good; what it took."""
    ended = server.run(command.args, command.place(folder))
    assert (ended.code, without_notes(ended.err)) == (0, ""), ended
    assert ended.steps is not None
    longest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Course(ended.seconds, ended.steps, longest)


def kill_and_retry(
    server: ForkServer,
    command: Command,
    whole: Path,
    drawn: Iterator[Moment],
    folder: Path,
    most: int = KILLS_AT_MOST,
) -> KilledCommand:
    """Kill a command some times, give it again until it ends, and compare with ``whole``.

    What has ended before its moment is not killed.
    """
    command.place(folder)
    tried = [next(drawn) for _ in range(most)]
    moments = tuple(one for one in tried if server.run(command.args, folder, one).code < 0)
    ended = server.run(command.args, folder)
    differing = tuple(differences(folder, whole)) if ended.code == 0 else ()
    shutil.rmtree(folder)
    return KilledCommand(moments, ended, differing)
