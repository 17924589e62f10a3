from __future__ import annotations

from layerwise.sweep import Generate
from layerwise.sweep.decoding.decode import LEAST_CONFIRMED, TRIAL, Drafter

ASKED = Generate((1, 2, 3, 9, 1, 2, 4, 5, 6), 20)


def drafter(**given) -> Drafter:
    return Drafter(**given)


def test_a_finished_text_of_the_same_prompt_is_the_guess():
    known = drafter()
    known.learn(0, (7, 8, 10, 11))
    assert known.draft(None, 0, [7, 8], ASKED, 5) == (10, 11)
    assert known.draft(None, 0, [7, 8], ASKED, 1) == (10,)
    # Not one that begins otherwise, is over already, or belongs to another prompt.
    assert known.draft(None, 0, [8, 8], ASKED, 5) == ()
    assert known.draft(None, 0, [7, 8, 10, 11], ASKED, 5) == ()
    assert known.draft(None, 1, [7, 8], ASKED, 5) == ()


def test_else_the_text_goes_on_as_after_its_last_two_tokens_most_recently():
    assert drafter().draft(None, 0, [1, 2], ASKED, 3) == (4, 5, 6)
    assert drafter().draft(None, 0, [7, 1, 2, 8, 1, 2], ASKED, 3) == (8, 1, 2)
    assert drafter().draft(None, 0, [7, 7, 7], ASKED, 3) == (7,)
    # One token from the prompt and one new one.
    assert drafter().draft(None, 0, [1], Generate((6, 1, 5, 6), 20), 3) == (5, 6, 1)
    assert drafter().draft(None, 0, [3, 1], ASKED, 3) == ()


def test_room_length_and_the_texts_own_end_bound_a_guess():
    long = tuple(range(10, 30))
    known = drafter(longest=4)
    known.learn(0, long)
    assert known.draft(None, 0, [10], ASKED, 50) == long[1:5]
    assert known.draft(None, 0, [10], ASKED, 0) == ()
    # The last token is never guessed: the step before it gives it.
    assert known.draft(None, 0, list(long[:17]), ASKED, 50) == long[17:19]
    assert known.draft(None, 0, list(long[:19]), ASKED, 50) == ()


def test_a_branch_whose_guesses_are_refused_gets_no_more():
    known = drafter()
    known.learn(0, (7, 8, 10))
    known.measured(3, TRIAL - 1, 0)
    assert known.draft(3, 0, [7], ASKED, 5)
    known.measured(3, 1, 0)
    assert known.draft(3, 0, [7], ASKED, 5) == ()
    assert known.draft(2, 0, [7], ASKED, 5) == (8, 10)  # each branch is measured apart
    known.measured(3, 0, TRIAL)
    assert known.measures[3] == (TRIAL, TRIAL)
    assert known.measures[3][1] >= LEAST_CONFIRMED * TRIAL
    assert known.draft(3, 0, [7], ASKED, 5) == (8, 10)
