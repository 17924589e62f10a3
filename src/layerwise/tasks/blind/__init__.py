"""Question-blind guessers: what can be got right from the options alone.

Chance is one over the number of options only if nothing about the options tells which one is
right. These guessers never see a question, and what they fit they fit on other items.
"""

from .control import GuesserAnswers as GuesserAnswers
from .control import QuestionOnlyBaseline as QuestionOnlyBaseline
from .control import guesser_accuracies as guesser_accuracies
from .control import guesser_answers as guesser_answers
from .control import question_only_baseline as question_only_baseline
