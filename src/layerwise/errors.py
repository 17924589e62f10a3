"""The one exception a user should ever see, and the did-you-mean sentence.

Nothing here knows about models, tasks or results.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's, told in one sentence: what, expected, what to do.

    The CLI prints the sentence without a traceback and exits with code 2.
    """


class DamagedResultsError(UserError):
    """Saved results that are missing, damaged or edited, and that a run can make again."""


class MadeAgainWarning(UserWarning):
    """Saved results were missing, damaged or edited, and were made again."""


def unknown_name(what: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a registry.

    Args:
        what: what kind of name it is, e.g. ``"task"``.
        given: the name asked for.
        known: the names that exist.

    Returns:
        A ``UserError`` that names the closest match, if any, and lists what exists.
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"Unknown {what} {given!r}.{hint} Expected one of: {', '.join(names)}.")
