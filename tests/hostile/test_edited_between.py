"""Runs that are killed, and whose questions or prompts are others when they are given again."""

from __future__ import annotations

from itertools import cycle

import pytest

from tests.hostile.edited_between import EDITS, again, edited_commands
from tests.hostile.extent import KILLS, SEED
from tests.hostile.fork_server import ForkServer
from tests.hostile.killer import Command, undisturbed
from tests.hostile.moments import drawn_moments
from tests.hostile.test_killer import servers as servers

ALL = edited_commands()
KILLS_EACH = max(len(EDITS), -(-KILLS // len(ALL)) // 4)


@pytest.mark.long  # by day tests/test_run_identity.py tries each edit after a piece
@pytest.mark.parametrize("command", ALL, ids=lambda command: command.name)
def test_a_run_that_is_edited_after_a_kill_is_refused_or_made_anew(
    servers: tuple[ForkServer, ForkServer], command: Command, tmp_path, count
):
    drawn = drawn_moments(undisturbed(servers[0], command, tmp_path / "whole"), SEED)
    refused = 0
    for edit, _ in zip(cycle(EDITS), range(KILLS_EACH), strict=False):
        moment, ended, wrong = again(servers, command, edit, drawn, tmp_path / "edited")
        assert not wrong, (edit, moment, ended, wrong)
        refused += ended.code == 2
    count("edits after a kill", KILLS_EACH)
    count("of them refused", refused)
