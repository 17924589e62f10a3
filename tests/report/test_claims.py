"""Claims of made-up runs: short, with rows and numbers of their own, and none against another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

import layerwise as lw
from layerwise.analyses.registry import run_tables
from layerwise.presentation.claim import (
    APART,
    ESTABLISHED,
    EVIDENCE,
    GAINED,
    GENERAL,
    MORE,
    NEEDED,
    ONE_ORDER,
    OPEN,
    ORDER,
    SPARED,
    Claim,
)
from layerwise.presentation.no_signal import NAMED
from layerwise.presentation.rows import rows
from layerwise.report.html import findings_from_tables
from layerwise.storage.run_tables import RunTables
from tests.synthetic import ablation, cell_records
from tests.test_books import asked_twice

CAPABILITIES = ("retrieval", "knowledge", "reasoning", "coherence")
PROTOCOLS = ("letter", "continuation", "generate")
EVERYTHING = 1000
SEEDS = (1, 5, 6, 8)
MORE_SEEDS = (7, *range(10, 24))
Needs = set[tuple[str, int]]


def draw_answers(
    rng: np.random.Generator, n: int, accuracy: float, losses: np.ndarray, flips: float
) -> np.ndarray:
    """Right answers: intact, then without each layer, which costs its share of them."""
    right = np.repeat(rng.random((n, 1)) < accuracy, len(losses) + 1, axis=1)
    right[:, 1:] &= rng.random((n, len(losses))) >= losses
    right[:, 1:] ^= rng.random((n, len(losses))) < flips
    return right


def made_up_run(seed: int) -> RunTables:
    """Some capabilities, tasks and protocols, some layers that all need and some that few do."""
    rng = np.random.default_rng(seed)
    n_layers, n = int(rng.choice([2, 5, 8, 24])), int(rng.choice([12, 40, 150]))
    protocols = rng.permutation(PROTOCOLS)[: rng.integers(1, 4)].tolist()
    every = rng.choice([0, 0, 0.02, 0.3, 0.8], n_layers)
    cells = []
    for capability in rng.permutation(CAPABILITIES)[: rng.integers(1, 5)].tolist():
        for task in range(rng.integers(1, 3)):
            accuracy = rng.choice([0.3, 0.5, 0.9, 1.0])
            own = rng.choice([0, 0.05, 0.3, 0.9], n_layers)
            losses = np.where(rng.random(n_layers) < 0.5, every, own)
            for protocol in protocols:
                here = np.where(
                    rng.random(n_layers) < 0.8, losses, rng.choice([0, 0.1, 0.7], n_layers)
                )
                right = draw_answers(rng, n, accuracy, here, rng.choice([0, 0.03]))
                luck = rng.random(n) < (0.0 if protocol == "generate" else 0.25)
                name = f"task {task} of {capability}"
                cells.append(cell_records(right, name, capability, protocol, luck))
    for protocol in protocols if rng.random() < 0.5 else []:
        both = (
            draw_answers(rng, n, accuracy, rng.choice([0, 0.1, 0.7], n_layers), 0.02)
            for accuracy in (0.85, 0.95)
        )
        cells.append(asked_twice(*both, protocol, 0.0 if protocol == "generate" else 0.25))
    if rng.random() < 0.5:  # guessed on, but for what one layer hides
        right = draw_answers(rng, n, 0.25, np.zeros(n_layers), 0.0)
        right[:, 1 + rng.integers(n_layers)] |= rng.random(n) < 0.7
        luck = rng.random(n) < 0.25
        cells.append(cell_records(right, "own file", "knowledge", protocols[0], luck))
    result = ablation(*cells, seed=seed)
    return run_tables([result, lw.emergence(result)])


@cache
def run_and_claims(seed: int) -> tuple[RunTables, list[Claim]]:
    run = made_up_run(seed)
    return run, findings_from_tables(run, EVERYTHING)


@pytest.fixture(
    params=[
        *SEEDS,
        *(pytest.param(seed, marks=pytest.mark.long) for seed in MORE_SEEDS),
    ]
)
def made_up_run_and_claims(request: pytest.FixtureRequest) -> tuple[RunTables, list[Claim]]:
    return run_and_claims(request.param)


@pytest.mark.long
def test_made_up_runs_earn_most_kinds_of_claims() -> None:
    kinds = {claim.kind for seed in SEEDS for claim in run_and_claims(seed)[1]}
    others = {"scoring", "no loss", "no signal", "open book"}
    assert {APART, ONE_ORDER, GENERAL, MORE, NEEDED, SPARED, GAINED, ORDER, *others} <= kinds


def without_names(claim: Claim) -> str:
    """The short form, each task as one word and without the numbers of layers."""
    short = claim.short
    for name in claim.tasks:
        short = short.replace(name, "task")
    short = re.sub(r"[Ll]ayers? (\d+[–, ]*(and )?)+(more )?", "layers ", short)
    short = re.sub(r": [\d–, and]+ against [\d–, and]+", "", short)
    return re.sub(r"[Ww]ithout \d+", "without it", short)


def sentence_numbers(text: str) -> list[str]:
    """Numbers of a sentence beside those in an interval; a range counts as one."""
    return re.findall(r"−?\d+(?:\.\d+)?(?:–\d+)?", re.sub(r" \[[^]]*\]", "", text))


@pytest.mark.long(
    but=[
        "1",
        "5",
        "7",
        "10",
        "11",
        "12",
        "13",
        "14",
        "15",
        "16",
        "17",
        "18",
        "19",
        "20",
        "21",
        "22",
        "23",
    ]
)
def test_every_claim_is_short_and_says_how_sure_it_is(made_up_run_and_claims):
    for claim in made_up_run_and_claims[1]:
        words = [word for word in without_names(claim).split() if word not in ("%", "–")]
        assert len(words) <= 25, claim.short
        assert len(sentence_numbers(without_names(claim))) <= 2, claim.short
        assert claim.evidence in EVIDENCE
        if claim.evidence != OPEN:
            assert claim.p is None or claim.p < 0.05, claim.full


def test_every_claim_has_rows_of_its_own(
    made_up_run_and_claims: tuple[RunTables, list[Claim]],
) -> None:
    run, found = made_up_run_and_claims
    sources = []
    for claim in found:
        about = rows(run.tables[claim.source["table"]], **claim.source["where"])
        quoted = rows(about, **claim.source["at"])
        assert len(quoted) > 0, claim.short
        if claim.evidence == ESTABLISHED and "established" in quoted:
            assert quoted["established"].all(), claim.short
        if claim.estimate is not None:
            values = quoted.select_dtypes("number").to_numpy(dtype=float, na_value=np.nan)
            assert np.isclose(abs(claim.estimate.value), [abs(values), 100 * abs(values)]).any()
        sources.append(repr(claim.source))
    assert len(set(sources)) == len(sources)
    assert len({claim.short for claim in found}) == len(found)


def test_numbers_of_a_claim_are_those_of_its_rows(made_up_run_and_claims):
    run, found = made_up_run_and_claims
    for claim in found:
        table = rows(run.tables[claim.source["table"]], **claim.source["where"])
        values = table.select_dtypes(include="number").to_numpy(dtype=float, na_value=np.nan)
        values = np.abs(values[np.isfinite(values)])
        known = {f"{x:.{digits}f}" for x in (*values, *(100 * values)) for digits in (0, 2)}
        known |= {str(len(table)), str(len(claim.capabilities)), str(len(claim.layers))}
        known |= {str(len(run.tables["signal"])), "5"}
        known |= {str(len(table) - NAMED)}  # those without signal that are not named one by one
        pairs = table[["first", "second"]].drop_duplicates() if "second" in table else table
        known.add(str(len(pairs)))
        if claim.kind == ORDER:  # a share of the depth in layers
            n_layers = run.facts.model.n_layers
            known |= {str(n_layers), *(f"{x * (n_layers - 1):.0f}" for x in values)}
        for number in sentence_numbers(without_names(claim)):
            assert set(re.split("–", number.lstrip("−"))) <= known, claim.short


def is_of_one_task(claim: Claim) -> bool:
    """A gain in a single task, whose capability may lose elsewhere."""
    return claim.source["where"].get("what") == GAINED


def claimed_needs(found: list[Claim], *kinds: str) -> Needs:
    return {
        (capability, layer)
        for claim in found
        if claim.kind in kinds and claim.evidence == ESTABLISHED and not is_of_one_task(claim)
        for capability in (claim.capabilities[:1] if claim.kind == MORE else claim.capabilities)
        for layer in claim.layers
    }


def test_no_claim_contradicts_another(
    made_up_run_and_claims: tuple[RunTables, list[Claim]],
) -> None:
    run, found = made_up_run_and_claims
    needed = claimed_needs(found, GENERAL, MORE, NEEDED)
    assert not needed & claimed_needs(found, SPARED, GAINED)
    assert claimed_needs(found, MORE) <= claimed_needs(found, GENERAL, NEEDED)
    asked = run.tables["signal"]["capability"].unique()
    for claim in found:
        of_all = "capabilities" in claim.short and "with signal" not in claim.short
        if claim.kind in (GENERAL, SPARED) and of_all:
            assert set(claim.capabilities) == set(asked)
        if is_of_one_task(claim):
            asked_there = {"task": list(claim.tasks), "protocol": list(claim.protocols)}
            known = rows(run.tables["signal"], **asked_there)["signal"].all()
            assert known == ("improves" in claim.short)
        if claim.kind == NEEDED and claim.evidence == OPEN:
            assert claim.capabilities[0] not in {capability for capability, _ in needed}
    apart, one = ({c.capabilities for c in found if c.kind == kind} for kind in (APART, ONE_ORDER))
    assert not apart & one
    more = set(differences(run, found))
    assert not {(layer, other, one) for layer, one, other in more} & more
    before = [c.capabilities for c in found if c.kind == ORDER and " comes before " in c.short]
    assert not {pair[::-1] for pair in before} & set(before)
    assert not without_loss(run, found) & {layer for _, layer in needed}


def differences(run: RunTables, found: list[Claim]) -> Iterator[tuple[int, str, str]]:
    for claim in found:
        if claim.kind == MORE:
            told = run.tables["capability_estimates"]
            quoted = rows(told, **claim.source["where"], **claim.source["at"])
            for row in quoted.itertuples():
                yield row.layer, row.capability, row.other


def without_loss(run: RunTables, found: list[Claim]) -> set[int]:
    """Layers that cost nothing that matters, whatever the protocol."""
    named = [set(claim.layers) for claim in found if claim.kind == "no loss"]
    every = run.tables["signal"].query("signal")["protocol"].nunique()
    return set.intersection(*named) if len(named) == every > 0 else set()
