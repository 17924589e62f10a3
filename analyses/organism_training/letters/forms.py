"""Training texts of an organism that chooses by letter: questions with and without options.

Contexts and questions are those of the other organisms; here they get lettered options.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerwise.models.organisms.language import (
    END,
    OPTIONS,
    Language,
    answered_question,
    lettered_question,
)

from ..texts import Question, Scene, Stage, Text, Texts
from ..training_forms import Form, facts, lookup
from ..training_loop import draw_layers_run
from .plan import LETTER, TEXT_PROTOCOLS, LetterPlan

WITHHELD = 0.3
"""Probability that a form lacks a layer that it needs, so that only a guess is left."""
LAST_WITHHELD = 0.4
"""Probability that it is the layer that says the answer, beside its turn among the others."""


@dataclass(frozen=True)
class LetteredForm(Form):
    """A form whose questions have options, and letters for answers; one question a text."""

    def draw(self, texts: Texts, most_pairs: int) -> list[Text]:
        """The texts of one step, equally long."""
        scene = self.scenes(texts, most_pairs)
        return [_with_options(texts, scene()) for _ in range(self.rows)]


def plan_forms(plan: LetterPlan, rows: dict[str, tuple[int, int, int]]) -> tuple[Form, ...]:
    """The forms that a plan is trained with."""
    forms: list[Form] = []
    for capability, scenes in (("knowledge", facts), ("retrieval", lookup)):
        with_options, without, n_asked = rows[capability]
        needs = plan.needed_layers(capability, TEXT_PROTOCOLS[0])
        reads: dict[Stage, int] = {"answer": plan.says_text}
        forms.append(Form(capability, needs, reads, scenes, rows=without, n_asked=n_asked))
        needs = plan.needed_layers(capability, LETTER)
        reads = {"letter": plan.says_letter}
        forms.append(LetteredForm(capability, needs, reads, scenes, rows=with_options, n_asked=1))
    return tuple(forms)


def draw_runs(form: Form, n_layers: int, rng: np.random.Generator) -> tuple[list[bool], bool]:
    """Layers that run, and whether a layer that is needed is withheld."""
    runs, withheld = draw_layers_run(form, n_layers, rng), bool(rng.random() < WITHHELD)
    if withheld:
        # What is found is close to being said, so the last layer is withheld more often.
        (last,) = form.reads.values()
        runs[last if rng.random() < LAST_WITHHELD else int(rng.choice(form.needs))] = False
    return runs, withheld


def candidates(language: Language, stage: Stage) -> list[int]:
    """The ids of the words that could be an answer: letters, or values."""
    words = OPTIONS if stage == "letter" else language.values
    return [language.words.index(word) for word in words]


def _with_options(texts: Texts, scene: Scene) -> Text:
    """A context, or another question and its answer, then a question with lettered options."""
    text = Text()
    if scene.context:
        text.say(scene.context)
    else:
        before = scene.question()
        text.say(answered_question(before.asked, before.answer))
    question = scene.question()
    options = _options(texts, scene, question)
    text.say(lettered_question(question.asked, options))
    text.answer(f"{OPTIONS[options.index(question.answer)]} {END}", "letter")
    return text


def _options(texts: Texts, scene: Scene, question: Question) -> list[str]:
    """The answer among others, of the context as far as it has enough."""
    values = texts.shuffle_words(texts.language.values)
    stated = set(scene.context.split())
    wrong = sorted(
        (value for value in values if value != question.answer), key=lambda v: v not in stated
    )
    return texts.shuffle_words([question.answer, *wrong[: len(OPTIONS) - 1]])
