"""The ``README.md`` of a distilled model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.rows import records
from layerwise.presentation.wording import capitalise, interval, number, p_value

from .result import DistillationResult
from .training.names import HOSTS, objective_in_words, student_in_words, trained_weights_words

_CARD = """---
library_name: transformers
tags:
- distillation
- layerwise
---

# {title}

Trained by `layerwise {command}` to say what the teacher says. The facts below, and every answer, \
are in `compared/` as JSON and Parquet.

| | |
|---|---|
{facts}

## Held-out items

| task | asked by | n | teacher | before | after | gain, points [95 %] | p | |
|---|---|---|---|---|---|---|---|---|
{gains}

McNemar's exact test of the same items before and after, corrected by Holm over the tasks and \
protocols; intervals are exact (95 %).

## Limits

- The accuracies are those of these suites, whose items are made by rule; they say nothing of \
other questions.
- Texts to train on share neither question nor fact with the measured items, yet they come from \
the same rules and templates: this is what the student learned to do, not how far it carries.
- One training with one seed. Another seed gives another student.
"""


def card(result: DistillationResult) -> str:
    """The text of ``README.md``."""
    settings: dict[str, Any] = dict(result.facts.settings)
    with model_layer_names(result.facts.model):
        return _CARD.format(
            title=capitalise(student_in_words(result.facts)),
            command="heal" if "removed" in settings else "distill",
            facts="\n".join(f"| {name} | {value} |" for name, value in _facts(result, settings)),
            gains="\n".join(_gain(row) for row in records(result.gains())),
        )


def _facts(result: DistillationResult, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    model, weights = result.facts.model, "SHA-256 of its weights"
    yield "teacher", f"{_code(settings['teacher'])}, {weights} {settings['teacher_hash']}"
    yield "student", f"{_code(model.name)}, {weights} {model.hash}"
    yield "this model", f"{weights} {settings['written_hash']}"
    yield "loss", objective_in_words(settings)
    yield "trained", trained_weights_words(settings)
    trained_on = f"{settings['texts_trained_on']} from {settings['text']}"
    digest, held_out = settings["text_hash"][:16], settings["texts_held_out"]
    yield "texts", f"{trained_on} (SHA-256 {digest}), {held_out} held out"
    sizes = f"{settings['steps']}, each of {settings['batch']} texts"
    yield "steps", f"{sizes}, rate {number(settings['rate'], 6)}, seed {result.facts.seed}"
    kl = result.distillation_curve["held_out_kl"].dropna()
    if len(kl):
        ends = f"{number(kl.iloc[0], 3)} nats a token before, {number(kl.iloc[-1], 3)} after"
        yield "KL(teacher, student) on held-out texts", ends
    versions = result.facts.versions.items()
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions)


def _gain(row: dict[str, Any]) -> str:
    share = [number(100 * row[f"acc_{host}"]) for host in HOSTS]
    gain = interval(*(100 * row[name] for name in ("gain", "gain_low", "gain_high")))
    verdict = "better" if row["improved"] else "worse" if row["worse"] else ""
    return (
        f"| {row['task']} | {row['protocol']} | {row['n_items']} | {' % | '.join(share)} % "
        f"| {gain} | {p_value(row['p_holm'])} | {verdict} |"
    )


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ').replace('|', ' ')}`"
