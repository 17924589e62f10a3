"""The card of a distilled model: what was done, with what, and what it can do, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.rows import records
from layerwise.presentation.wording import capitalised, interval, number, p_value

from .names import objective_in_words, student_in_words, trained_in_words
from .result import DistillationResult

_LIMITS = (
    "The accuracies are those of these suites, whose items are made by rule; they say nothing of "
    "other questions.",
    "Texts to train on share neither question nor fact with the measured items, yet they come "
    "from the same rules and templates: this is what the student learned to do, not how far it "
    "carries.",
    "One training with one seed. Another seed gives another student.",
)


def card(result: DistillationResult) -> str:
    """The text of ``README.md``."""
    with naming_layers_of(result.facts.model):
        return "\n".join(_lines(result)) + "\n"


def _lines(result: DistillationResult) -> list[str]:
    facts, settings = result.facts, result.facts.settings
    return [
        "---",
        "library_name: transformers",
        "tags:",
        "- distillation",
        "- layerwise",
        "---",
        "",
        f"# {capitalised(student_in_words(facts))}",
        "",
        f"Trained by `layerwise {'heal' if 'removed' in settings else 'distill'}` to say what the "
        "teacher says. The facts below, and every answer, are in `compared/` as JSON and Parquet.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(result)),
        "",
        "## Held-out items",
        "",
        *_table(result),
        "",
        "McNemar's exact test of the same items before and after, corrected by Holm over the "
        "tasks and protocols; intervals are exact (95 %).",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in _LIMITS),
    ]


def _facts(result: DistillationResult) -> Iterator[tuple[str, str]]:
    facts = result.facts
    settings: dict[str, Any] = dict(facts.settings)
    yield (
        "teacher",
        f"{_code(settings['teacher'])}, SHA-256 of its weights {settings['teacher_hash']}",
    )
    yield "student", f"{_code(facts.model.name)}, SHA-256 of its weights {facts.model.hash}"
    yield "this model", f"SHA-256 of its weights {settings['written_hash']}"
    yield "loss", objective_in_words(settings)
    yield "trained", trained_in_words(settings)
    yield (
        "texts",
        (
            f"{settings['texts_trained_on']} from {settings['text']} (SHA-256 "
            f"{settings['text_hash'][:16]}), {settings['texts_held_out']} held out"
        ),
    )
    yield (
        "steps",
        (
            f"{settings['steps']}, each of {settings['batch']} texts, rate "
            f"{number(settings['rate'], 6)}, seed {facts.seed}"
        ),
    )
    kl = result.distillation_curve["held_out_kl"].dropna()
    if len(kl):
        yield (
            "KL(teacher, student) on held-out texts",
            (f"{number(kl.iloc[0], 3)} nats a token before, {number(kl.iloc[-1], 3)} after"),
        )
    yield "versions", ", ".join(f"{name} {version}" for name, version in facts.versions.items())


def _table(result: DistillationResult) -> Iterator[str]:
    yield "| task | asked by | n | teacher | before | after | gain, points [95 %] | p | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in records(result.gains()):
        share = [number(100 * row[f"acc_{model}"]) for model in ("teacher", "student", "distilled")]
        gain = interval(*(100 * row[name] for name in ("gain", "gain_low", "gain_high")))
        verdict = "better" if row["improved"] else "worse" if row["worse"] else ""
        yield (
            f"| {row['task']} | {row['protocol']} | {row['n_items']} | {' % | '.join(share)} % "
            f"| {gain} | {p_value(row['p_holm'])} | {verdict} |"
        )


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ').replace('|', ' ')}`"
