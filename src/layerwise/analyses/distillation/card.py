"""The card of a distilled model: what was done, with what, and what it can do, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from layerwise.presentation.rows import records
from layerwise.presentation.wording import interval, layer_ranges, number, p_value

from .names import FORWARD, JENSEN_SHANNON, OF_TASK
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
    """The text of ``README.md``.

    Args:
        result: the distillation.
    """
    facts, settings = result.facts, result.facts.settings
    lines = [
        "---",
        "library_name: transformers",
        "tags:",
        "- distillation",
        "- layerwise",
        "---",
        "",
        f"# {_code(facts.model.name)}, distilled from {_code(str(settings['teacher']))}",
        "",
        "Trained by `layerwise distill` to say what the teacher says. The facts below, and every "
        "answer, are in `compared/` as JSON and Parquet.",
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
        *(f"- {one}" for one in _LIMITS),
    ]
    return "\n".join(lines) + "\n"


def _facts(result: DistillationResult) -> Iterator[tuple[str, str]]:
    facts = result.facts
    told: dict[str, Any] = dict(facts.settings)
    yield "teacher", f"{_code(told['teacher'])}, SHA-256 of its weights {told['teacher_hash']}"
    yield "student", f"{_code(facts.model.name)}, SHA-256 of its weights {facts.model.hash}"
    yield "this model", f"SHA-256 of its weights {told['written_hash']}"
    yield "loss", objective_in_words(told)
    yield "trained", trained_in_words(told)
    yield (
        "texts",
        (
            f"{told['texts_trained_on']} from {told['text']} (SHA-256 {told['text_hash'][:16]}), "
            f"{told['texts_held_out']} held out"
        ),
    )
    yield (
        "steps",
        (
            f"{told['steps']}, each of {told['batch']} texts, rate {number(told['rate'], 6)}, seed "
            f"{facts.seed}"
        ),
    )
    kl = result.distillation_curve["held_out_kl"].dropna()
    if len(kl):
        yield (
            "KL(teacher, student) on held-out texts",
            (f"{number(kl.iloc[0], 3)} nats a token before, {number(kl.iloc[-1], 3)} after"),
        )
    yield "versions", ", ".join(f"{name} {one}" for name, one in facts.versions.items())


def objective_in_words(settings: dict[str, Any]) -> str:
    """The loss of a distillation, from its settings."""
    kind = settings["divergence"]
    words = {
        FORWARD: "KL(teacher, student)",
        JENSEN_SHANNON: "generalized Jensen-Shannon divergence of mixture "
        + number(settings["mixture"], 2),
    }
    told = f"{words.get(kind, 'KL(student, teacher)')} at temperature "
    told += number(settings["temperature"], 2)
    for name, noun in (("cross_entropy", "cross-entropy"), ("hidden", "distance of streams")):
        if settings[name]:
            told += f" + {number(settings[name], 2)} × {noun}"
    if settings["on_policy"]:
        told += f"; {number(100 * settings['on_policy'])} % of the texts written by the student"
    whose = "the task's" if settings["answers"] == OF_TASK else "the teacher's"
    return told if settings["from_file"] else f"{told}; {whose} answers"


def trained_in_words(settings: dict[str, Any]) -> str:
    """Which weights of a student were trained, from its settings."""
    layers, rank = settings["layers"], settings["rank"]
    noun = "layer" if layers is not None and len(layers) == 1 else "layers"
    where = "all layers" if layers is None else f"{noun} {layer_ranges(layers)}"
    if rank is not None:
        return f"low-rank adapters of rank {rank} in {where}, merged into the weights"
    return "all weights" if layers is None else f"the weights of {where}"


def _table(result: DistillationResult) -> Iterator[str]:
    yield "| task | asked by | n | teacher | before | after | gain, points [95 %] | p | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in records(result.gains()):
        share = [number(100 * row[f"acc_{one}"]) for one in ("teacher", "student", "distilled")]
        gain = interval(*(100 * row[name] for name in ("gain", "gain_low", "gain_high")))
        verdict = "better" if row["improved"] else "worse" if row["worse"] else ""
        yield (
            f"| {row['task']} | {row['protocol']} | {row['n_items']} | {' % | '.join(share)} % "
            f"| {gain} | {p_value(row['p_holm'])} | {verdict} |"
        )


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ').replace('|', ' ')}`"
