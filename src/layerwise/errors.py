"""The one exception a user should ever see, the did-you-mean sentence, and text fit to print.

Nothing here knows about models, tasks or results.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

# Names longer than this are cut where they are told; whole texts can be put into one.
_LONGEST_NAME = 120
# What may stand in names all the same: joiners, that some scripts and pictures are written with.
_HARMLESS = "\u200c\u200d\u00ad"


def printable(text: str, *, lines: bool = False) -> str:
    r"""Text that a terminal shows and does not obey: control characters are spelled out.

    Escape sequences could colour, move or delete what else is shown, and marks of direction could
    turn its order; the names of files, tasks and models can hold either.

    Example:
        >>> printable("kv\x1b[31m")
        'kv\\x1b[31m'
    """
    if text.isascii() and text.isprintable():
        return text
    kept = f"{_HARMLESS}\n\t" if lines else _HARMLESS
    return "".join(one if one in kept or not _controls(one) else _escape(one) for one in text)


def _controls(one: str) -> bool:
    """True if a character is a control or format character, half of one, or breaks lines.

    So may characters be that are not assigned, or privately.
    """
    return unicodedata.category(one) in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")


def _escape(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")


def short_repr(value: object) -> str:
    """A value as a sentence can tell it: its ``repr``, cut if it is long."""
    try:
        text = printable(repr(value))
    except Exception:  # a number of too many digits, or an object that cannot be told
        return f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."


def one_line(error: BaseException) -> str:
    """The beginning of an error's message, fit to be quoted in a sentence."""
    return " ".join(str(error).split())[:200].rstrip(" .")


class UserError(ValueError):
    """Invalid user input, in one sentence: what was wrong, what was expected, what to do.

    The CLI prints the sentence without a traceback and exits with code 2; notebooks show it alone,
    too. Control characters in it are spelled out, whatever name or file they came from.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))

    def _render_traceback_(self) -> list[str]:
        """Text that IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class TooLongError(UserError):
    """A prompt that the model has no room for."""


class DamagedResultsError(UserError):
    """Saved results that are missing, damaged or edited, and that a run can make again."""


class MadeAgainWarning(UserWarning):
    """Saved results were missing, damaged or edited, and were made again."""


class DamagedFileWarning(UserWarning):
    """A file of a saved run is missing or changed, though no table of it is."""


class OtherEnvironmentWarning(UserWarning):
    """A run goes on under other versions, threads or kernels than it began with."""


class UnusedSettingsWarning(UserWarning):
    """A model's own settings, with which its texts could be others, are not used."""


class LongAnswersWarning(UserWarning):
    """Answers take more of a model's tokens than their task allows; texts may be longer."""


class LongItemsWarning(UserWarning):
    """Items are longer than a model's context, and are not asked."""


class BrokenPluginWarning(UserWarning):
    """An analysis of another installed package does not work, and is left out."""


class NoSignalPossibleWarning(UserWarning):
    """Too few items to tell even a model that has all of them right from guessing."""


def count_noun(n: int, noun: str, several: str = "") -> str:
    """``"1 layer"``, ``"3 layers"``, ``"12,000 bytes"``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {several or noun + 's'}"


def unknown_name(what: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a registry."""
    names = sorted(known)
    # Of a long text nothing is close, and to find that out would take long.
    close = difflib.get_close_matches(given, names, n=1) if len(given) <= _LONGEST_NAME else []
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(
        f"Unknown {what} {short_repr(given)}.{hint} Expected one of: {', '.join(names)}."
    )
