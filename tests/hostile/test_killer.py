"""Commands that are killed at random moments, and come to the very same tables or say why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests import commands
from tests.commands import without_notes
from tests.hostile.extent import KILLS, SEED
from tests.hostile.fork_server import ForkServer
from tests.hostile.killed_commands import joining_commands, model_commands
from tests.hostile.killer import KILLS_AT_MOST, Command, kill_and_retry, run_undisturbed
from tests.hostile.moments import drawn_moments

ALL = (*model_commands("decoder"), *model_commands("seq2seq"), *joining_commands())
KILLS_EACH = -(-KILLS // len(ALL))


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ForkServer, ForkServer]]:
    """One for what is killed, one for what is not; texts have other hashes in each."""
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(ForkServer(commands.environment(PYTHONHASHSEED=seed)))
            for seed in ("1", "2")
        )
        yield first, second


@pytest.mark.long  # by day tests of run folders kill at steps that they name
@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_a_command_killed_at_any_moment_goes_on_to_the_same_files(
    servers: tuple[ForkServer, ForkServer], command: Command, tmp_path, count
):
    calm, killing = servers
    course = run_undisturbed(calm, command, tmp_path / "whole")
    drawn, kills = drawn_moments(course, SEED), 0
    while kills < KILLS_EACH:
        most = min(KILLS_AT_MOST, KILLS_EACH - kills)
        outcome = kill_and_retry(
            killing, command, tmp_path / "whole", drawn, tmp_path / "killed", most
        )
        assert (outcome.ended.code, without_notes(outcome.ended.err)) == (0, ""), outcome
        assert not outcome.differing, outcome
        kills += len(outcome.moments)
    count("kills", kills)
