"""Rates of false sentences on pages: whole runs in which no sentence of a kind can be true."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool

import layerwise as lw
from layerwise import stats
from layerwise.analyses.registry import run_tables
from layerwise.presentation.claim import APART, ESTABLISHED, OPEN, Claim
from layerwise.report.html import findings_from_tables
from layerwise.results import AblationResult, Facts, ModelFacts, TaskFacts
from layerwise.storage.parquet import frame

N_PAGES, N_ITEMS, N_LAYERS, EVERYTHING = 55, 60, 12, 1000
# So many that no loss could be shown where there is none.
N_FOR_NO_LOSS = 250
CAPABILITIES = ("retrieval", "knowledge", "reasoning", "coherence")
# What a model that has lost everything gets right by luck.
LUCK = {"letter": 0.25, "continuation": 0.25, "generate": 0.0}
NOTHING = "no layer matters: answers redrawn under every change"
WEAK = "no layer matters to a model that hardly knows the answers: all redrawn likewise"
MATTERS = "every layer costs 5 points, and answers flip"
HARDER = "one scale: the protocols differ in how hard they are, the capabilities in nothing"
Answers = Bool[np.ndarray, "items interventions"]

# What makes a claim, by kind of sentence: the claim's kind, and the table that it reads.
CLAIMS = {
    "needed": ("needed", "capability_estimates"),
    "different layers": (APART, "capability_estimates"),
    "loses more": ("loses more", "capability_estimates"),
    "spare": ("spare", "capability_estimates"),
    "gain": ("gain", "capability_estimates"),
    "no loss": ("no loss", "effects"),
    "steps of the ladder": ("scoring", "ladder_steps"),
    "other layers": ("scoring", "dissociations"),
    "order": ("order", "order"),
    "interaction": ("scoring", "protocol_interaction"),
}
# In which case which of them cannot be true.
_OF_LAYERS = (
    "needed",
    "different layers",
    "loses more",
    "gain",
    "steps of the ladder",
    "other layers",
    "order",
    "interaction",
)
FALSE = {
    NOTHING: _OF_LAYERS,
    WEAK: _OF_LAYERS,
    MATTERS: (
        "no loss", "spare", "different layers", "loses more", "gain", "steps of the ladder",
        "other layers", "interaction",
    ),
    HARDER: ("different layers", "loses more", "gain", "other layers", "order"),
}  # fmt: skip


def measure(n_pages: int = N_PAGES) -> pd.DataFrame:
    """One row per case, run and kind of sentence that cannot be true there.

    ``told`` is how many such sentences the run's tables earn, ``over_run`` how many of them say
    that something holds over all tests of the run. Sentences that are corrected over the run in the
    first place count in both.
    """
    rows = []
    for case, draw in DRAWN.items():
        for page in range(n_pages):
            said = sentences(draw, np.random.default_rng([page, *case.encode()]))
            for kind in FALSE[case]:
                told = [claim for claim in said if is_told(claim, kind)]
                held = [claim for claim in told if claim.evidence == ESTABLISHED]
                rows.append({"case": case, "page": page, "kind": kind, "told": len(told),
                             "over_run": len(held)})  # fmt: skip
    return pd.DataFrame(rows)


def is_told(claim: Claim, kind: str) -> bool:
    """True if a claim says something of a kind."""
    return claim.evidence != OPEN and (claim.kind, claim.source["table"]) == CLAIMS[kind]


def false_sentence_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Rate of runs with at least one false sentence, with an exact 95 % interval."""
    rows = []
    for (case, kind), group in table.groupby(["case", "kind"], sort=False):
        for level in ("told", "over_run"):
            found = stats.exact_interval(int((group[level] > 0).sum()), len(group))
            rate = {"rate": found.estimate, "low": found.low, "high": found.high}
            rows.append({"case": case, "kind": kind, "level": level, "pages": len(group)} | rate)
    return pd.DataFrame(rows)


Draw = Callable[[np.random.Generator, str], tuple[Answers, np.ndarray]]


def sentences(draw: Draw, rng: np.random.Generator) -> list[Claim]:
    """All that the page of a run of four capabilities under three protocols could say."""
    parts = []
    for capability in CAPABILITIES:
        for protocol in LUCK:
            parts.append(_records(capability, protocol, *draw(rng, protocol), rng))
    result = AblationResult(
        frame("records", [row for part in parts for row in part]), facts(CAPABILITIES, N_ITEMS)
    )
    run = run_tables([result, lw.emergence(result)])
    return findings_from_tables(run, EVERYTHING)


def redrawn(rng: np.random.Generator, protocol: str) -> tuple[Answers, np.ndarray]:
    """Each item is answered anew, right with its own chance, intact and under every change."""
    sure = rng.beta(4, rng.uniform(1, 3), size=(N_ITEMS, 1))
    shape = (N_ITEMS, N_LAYERS + 1)
    return rng.random(shape) < sure, rng.normal(0, 1, shape)


def weak(rng: np.random.Generator, protocol: str) -> tuple[Answers, np.ndarray]:
    """As ``redrawn``, by a model that is right little more often than by luck."""
    sure = LUCK[protocol] + rng.uniform(0.03, 0.17)
    shape = (N_ITEMS, N_LAYERS + 1)
    return rng.random(shape) < sure, rng.normal(0, 1, shape)


def lossy(rng: np.random.Generator, protocol: str) -> tuple[Answers, np.ndarray]:
    """Every layer costs the smallest loss of interest, in points and in nats, and flips answers."""
    sure = np.repeat(rng.uniform(0.7, 0.95), N_FOR_NO_LOSS)[:, None]
    chance = np.concatenate([sure, np.repeat(sure - 0.05, N_LAYERS, axis=1)], axis=1)
    same = rng.random((N_FOR_NO_LOSS, 1))
    anew = rng.random(chance.shape) < rng.choice([0.0, 0.1])
    drawn = np.where(anew, rng.random(chance.shape), same)
    nats = -rng.exponential(0.1, chance.shape)
    nats[:, 0] = 0
    return drawn < chance, nats


def one_scale(rng: np.random.Generator, protocol: str) -> tuple[Answers, np.ndarray]:
    """Some layers take a little of every item, all of some, or everything; thresholds differ."""
    threshold = {"letter": 2.0, "continuation": 0.5, "generate": 1.5}[protocol]
    sure = rng.normal(3, 1, (N_ITEMS, 1))
    taken = np.zeros((N_ITEMS, N_LAYERS + 1))
    taken[:, 3] = rng.normal(1.5, 0.3, N_ITEMS)
    taken[:, 6] = np.where(rng.random(N_ITEMS) < 0.4, 9, 0)
    taken[:, 8] = 20
    strength = sure - taken + rng.normal(0, 0.3, taken.shape)
    return (strength > threshold) | (rng.random(taken.shape) < LUCK[protocol]), strength


DRAWN: dict[str, Draw] = {NOTHING: redrawn, WEAK: weak, MATTERS: lossy, HARDER: one_scale}


def _records(
    task: str, protocol: str, right: Answers, nats: np.ndarray, rng: np.random.Generator
) -> list[dict[str, object]]:
    """Records of one task, intact first, and without any layer."""
    n_items = len(right)
    lost_all = rng.random(n_items) < LUCK[protocol]
    found = []
    for column in range(-1, N_LAYERS + 1):
        layer = column - 1
        kind = "no layers" if column < 0 else "intact" if not column else "skip"
        changed = {"intervention": f"skip:layer={layer}", "site": "layer", "layer": layer,
                   "layers": [layer]}  # fmt: skip
        same = {"intervention": kind, "layers": []}
        for item in range(n_items):
            text = protocol != "generate"
            gold = float(nats[item, column]) if column >= 0 else -20.0
            found.append(
                (changed if column > 0 else same)
                | {
                    "kind": kind,
                    "task": task,
                    "capability": task,
                    "item": f"{task}/{item:04d}",
                    "protocol": protocol,
                    "correct": bool(lost_all[item] if column < 0 else right[item, column]),
                    "gold_logprob": gold if text else None,
                    "margin": gold if text else None,
                }
            )
    return found


def facts(tasks: Sequence[str], n_items: int) -> Facts:
    """The facts of a model that is made of numbers, and of tasks named for their capabilities."""
    model = ModelFacts(
        name="simulated", source="drawn", hash="0" * 64, n_layers=N_LAYERS, n_heads=1, d_model=1,
        d_vocab=2, n_ctx=1, n_parameters=1, dtype="float32", device="cpu", parity=None,
        attention="none",
    )  # fmt: skip
    asked = [
        TaskFacts(name=one, capability=one, description="drawn", hash="0" * 64, n_items=n_items,
                  n_fewshot=0, chance=dict(LUCK), source="drawn")
        for one in tasks
    ]  # fmt: skip
    return Facts(model=model, tasks=tuple(asked), protocols=tuple(LUCK), seed=0, settings={})
