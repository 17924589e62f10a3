"""Question-blind guessers: what can be got right from the options alone.

Chance is one over the number of options only if nothing about the options tells which one is
right. These guessers never see a question, and what they can tune they tune on other items.
"""

from .control import BestBlind as BestBlind
from .control import Guesses as Guesses
from .control import best_blind as best_blind
from .control import blind_guesses as blind_guesses
from .control import guesses as guesses
