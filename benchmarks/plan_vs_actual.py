"""Plans of three different jobs by ``layerwise plan``, and what they then take.

Log-likelihoods (letter and continuation), greedy texts, and activation patching, each planned,
run at once, so that plan and run see the same machine, and set against its plan, for a decoder
and for an encoder-decoder.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from machine import machine
from measuring import markdown, time_and_report

from layerwise import ablate, load_model, patch_activations
from layerwise.models import DEFAULT_MODEL
from layerwise.models.instance.facts import original_tokenizer, tokenizer_language
from layerwise.models.instance.kinds import Model
from layerwise.planning.plan import RunPlan, plan_run

LOG_LIKELIHOODS = ("letter", "continuation")
GOAL = 0.3


@dataclass(frozen=True)
class Suites:
    """Suites that a model is asked.

    Attributes:
        scored: suites whose options are scored.
        written: suites whose answers are written.
        patched: suites with pairs of prompts.
        times: so many times the items that were asked for, where the model is as much smaller.
    """

    scored: tuple[Any, ...]
    written: tuple[Any, ...]
    patched: tuple[Any, ...]
    times: int = 1


TEXTS = Suites(
    ("facts", "kv-words", "arithmetic", "brackets"), ("word-problems", "facts"),
    ("facts", "kv-words"),
)  # fmt: skip
_TOYS = ("organism-lookup", "organism-facts", "organism-two-hop", "organism-brackets")
TOYS = Suites(_TOYS, _TOYS, _TOYS, 20)


@dataclass(frozen=True)
class Row:
    """A job: what was planned, and what it did.

    Attributes:
        job: its name.
        planned_seconds: in sweeps.
        seconds: that its sweeps took.
        planned_passes: token-passes.
        passes: token-passes made.
    """

    job: str
    planned_seconds: float
    seconds: float
    planned_passes: float
    passes: int

    @classmethod
    def from_result(cls, job: str, plan: RunPlan, result: Any) -> Row:
        """A job's plan and its result."""
        seconds, passes = (
            sum(entry[key] for entry in result.facts.work) for key in ("seconds", "token_passes")
        )
        assert plan.seconds is not None, "the model is in memory and was timed"
        return cls(job, plan.seconds, seconds, plan.total.token_passes, passes)

    @property
    def ratio(self) -> float:
        """Actual over planned seconds."""
        return self.seconds / self.planned_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL, "organism-seq2seq"])
    parser.add_argument("--items", type=int, default=12, help="of each suite")
    parser.add_argument("--pairs", type=int, default=8, help="of prompts, of each patched suite")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(f"{machine()}\n")
    for name in options.model:
        model = load_model(name, dtype=options.dtype)
        suites = TOYS if tokenizer_language(original_tokenizer(model)) == "organism" else TEXTS
        rows = compare(model, suites, options.items, options.pairs)
        print(f"{name}:")
        print(f"\n{table(rows)}")
        outside = [row.job for row in rows if abs(row.ratio - 1) > GOAL]
        print(f"\nNot within {GOAL:.0%}: {', '.join(outside) or 'none'}.\n")


def compare(model: Model, suites: Suites, n_items: int, n_pairs: int) -> list[Row]:
    """Plan and run the three jobs."""
    quiet: dict[str, Any] = {"limit": n_items * suites.times}
    rows = []
    for job, tasks, protocols in (
        ("log-likelihoods", suites.scored, LOG_LIKELIHOODS),
        ("greedy texts", suites.written, ("generate",)),
    ):
        plan = plan_run(model, tasks, protocols, **quiet)
        result, _ = time_and_report(
            job,
            lambda: ablate(model, tasks, protocols, progress=False, **quiet),  # noqa: B023
        )
        rows.append(Row.from_result(job, plan, result))
    quiet["pairs"] = n_pairs * suites.times
    plan = plan_run(model, suites.patched, analysis="patching", **quiet)
    run = lambda: patch_activations(model, suites.patched, progress=False, **quiet)  # noqa: E731
    result, _ = time_and_report("patching", run)
    return [*rows, Row.from_result("patching", plan, result)]


def table(rows: list[Row]) -> str:
    """The jobs, one a line."""
    head = "job|planned, s|took, s|took / planned|planned token-passes|made"
    lines = [
        [
            row.job, f"{row.planned_seconds:.1f}", f"{row.seconds:.1f}", f"{row.ratio:.2f}",
            f"{row.planned_passes:,.0f}", f"{row.passes:,}",
        ]
        for row in rows
    ]  # fmt: skip
    return markdown(head, lines)


if __name__ == "__main__":
    main()
