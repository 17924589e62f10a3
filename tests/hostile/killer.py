"""Kills a command again and again, gives it again until it ends, and says what differs then.

Which commands there are is in ``killed_commands``; the moments are those of ``moments``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.fork_server import Ended, ForkServer
from tests.hostile.moments import Course, Moment
from tests.hostile.same_outcome import differences

KILLS_AT_MOST = 3


@dataclass(frozen=True)
class Command:
    """A command that is killed.

    Attributes:
        name: what it is called in the tests.
        args: its arguments; ``out`` in them is the folder that it writes.
        prepare: puts what the command needs into the folder where it is run.
    """

    name: str
    args: tuple[object, ...]
    prepare: Callable[[Path], None] = lambda folder: None

    def place(self, folder: Path) -> Path:
        """A new folder with what the command needs."""
        folder.mkdir(parents=True)
        self.prepare(folder)
        return folder


@dataclass(frozen=True)
class Killed:
    """What became of a command that was killed and given again.

    Attributes:
        moments: when it was killed.
        ended: how it ended at last.
        differing: files that are not those of the undisturbed run.
    """

    moments: tuple[Moment, ...]
    ended: Ended
    differing: tuple[str, ...]


def undisturbed(server: ForkServer, command: Command, folder: Path) -> Course:
    """Run a command to its end; what it took.

    Raises:
        AssertionError: if it does not end well.
    """
    ended = server.run(command.args, command.place(folder))
    assert (ended.code, ended.err) == (0, ""), ended
    assert ended.steps is not None
    longest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Course(ended.seconds, ended.steps, longest)


def killed(
    server: ForkServer,
    command: Command,
    whole: Path,
    drawn: Iterator[Moment],
    folder: Path,
    most: int = KILLS_AT_MOST,
) -> Killed:
    """Kill a command some times, give it again until it ends, and compare.

    Args:
        server: starts the processes.
        command: the command.
        whole: the folder where it ran undisturbed.
        drawn: moments; what has ended before its moment is not killed.
        folder: where it is run and killed; made anew.
        most: how often it is killed at most.
    """
    command.place(folder)
    tried = [next(drawn) for _ in range(most)]
    moments = tuple(one for one in tried if server.run(command.args, folder, one).code < 0)
    ended = server.run(command.args, folder)
    differing = tuple(differences(folder, whole)) if ended.code == 0 else ()
    shutil.rmtree(folder)
    return Killed(moments, ended, differing)
