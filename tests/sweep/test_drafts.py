"""Guesses of how texts go on, before the model confirms or refuses them."""

from __future__ import annotations

import pytest

from layerwise.sweep import Generate
from layerwise.sweep.decoding.decode import LEAST_CONFIRMED, TRIAL, Drafter

ASKED = Generate((1, 2, 3, 9, 1, 2, 4, 5, 6), 20)
LONG = tuple(range(10, 30))


@pytest.mark.parametrize(
    ("request_", "tokens", "room", "guess"),
    [
        # As another text of the prompt that begins alike went on.
        (0, [7, 8], 5, (10, 11)),
        (0, [7, 8], 1, (10,)),
        (0, [8, 8], 5, ()),
        (0, [7, 8, 10, 11], 5, ()),
        (1, [7, 8], 5, ()),
        # Else as after the last two tokens, most recently.
        (0, [1, 2], 3, (4, 5, 6)),
        (0, [7, 1, 2, 8, 1, 2], 3, (8, 1, 2)),
        (0, [7, 7, 7], 3, (7,)),
        (0, [3, 1], 3, ()),
        # Of at most four tokens, of the room, and never the text's last.
        (0, [10], 50, LONG[1:5]),
        (0, [10], 0, ()),
        (0, list(LONG[:17]), 50, LONG[17:19]),
        (0, list(LONG[:19]), 50, ()),
    ],
)
def test_texts_are_guessed_to_go_on_as_they_did_before(request_, tokens, room, guess):
    drafter = Drafter(longest=4)
    drafter.learn(0, (7, 8, 10, 11))
    drafter.learn(0, LONG)
    assert drafter.draft(None, request_, tokens, ASKED, room) == guess


def test_a_branch_whose_guesses_are_refused_gets_no_more():
    known = Drafter()
    known.learn(0, (7, 8, 10))
    known.count_confirmed(3, TRIAL - 1, 0)
    assert known.draft(3, 0, [7], ASKED, 5)
    known.count_confirmed(3, 1, 0)
    assert known.draft(3, 0, [7], ASKED, 5) == ()
    assert known.draft(2, 0, [7], ASKED, 5) == (8, 10)  # each branch is measured apart
    known.count_confirmed(3, 0, TRIAL)
    assert known.measures[3][1] >= LEAST_CONFIRMED * TRIAL
    assert known.draft(3, 0, [7], ASKED, 5) == (8, 10)
