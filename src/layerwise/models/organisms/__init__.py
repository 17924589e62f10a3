"""Models whose answer is known, and the toy languages that they speak.

What a language's words and facts are is here; the questions asked in it are task suites.
"""

from __future__ import annotations

from .language import LETTERS as LETTERS
from .language import ORGANISM as ORGANISM
from .language import Language as Language

__all__ = ["LETTERS", "ORGANISM", "Language"]
