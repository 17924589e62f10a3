"""Protection by a passage: by hand, and on models of known answer; nulls in test_dissociation."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from layerwise import ablate, load_model, stats
from layerwise.analyses.ablation.claims.scoring_steps import passage_findings
from layerwise.analyses.registry import run_tables
from layerwise.models.organisms.language import ORGANISM, WIRED
from layerwise.models.organisms.layout import WiredLayout
from layerwise.models.organisms.wired import wired_model
from layerwise.presentation.wording import interval
from layerwise.results import AblationResult
from layerwise.tasks.suites import toy
from tests.hooked import HookedTransformer
from tests.synthetic import ablation, cell_records

N_LAYERS = 12


def asked_twice(
    closed: np.ndarray, opened: np.ndarray, protocol: str = "continuation", floor: float = 0.25
) -> pd.DataFrame:
    """Records of two tasks: a row per item, intact first, then layer by layer."""
    n = len(closed)
    without = np.arange(n) < round(floor * n)
    first = cell_records(closed, "told", "knowledge", protocol, without)
    second = cell_records(opened, "read", "retrieval", protocol, without[::-1])
    named = second["item"].str.replace("read", "told")
    return pd.concat([first.assign(closed_book=None), second.assign(closed_book=named)])


def planted_books(n: int = 100, seed: int = 0, n_layers: int = 8) -> AblationResult:
    """Layer 2 costs what is known, layer 5 what is read, layer 6 some of both."""
    rng = np.random.default_rng(seed)
    both = [np.repeat(rng.random((n, 1)) < share, n_layers + 1, axis=1) for share in (0.85, 0.95)]
    for right, own in zip(both, (2, 5), strict=True):
        for layer, lost in ((own, 0.7), (6, 0.3)):
            right[:, layer + 1] &= rng.random(n) > lost
        flipped = rng.random(right.shape) < 0.02
        flipped[:, 0] = False
        right ^= flipped
    return ablation(asked_twice(*both), seed=seed)


@pytest.fixture(scope="module")
def books() -> AblationResult:
    return planted_books()


def test_counts_losses_and_shares_are_those_of_the_records(books: AblationResult) -> None:
    records, table = books.records, books.books().set_index("layer")
    wide = {
        task: mine.assign(item=mine["item"].str[-4:]).pivot_table(
            index="item", columns="intervention", values="correct", aggfunc="mean"
        )
        for task, mine in records.groupby("task")
    }
    told, read = (wide[name].astype(bool) for name in ("told", "read"))
    common = told["intact"] & read["intact"]
    for layer, row in table.iterrows():
        name = f"skip:layer={layer}"
        lost = [common & ~one[name] for one in (told, read)]
        counts = [lost[0] & ~lost[1], lost[1] & ~lost[0], lost[0] & lost[1]]
        names = ["only_closed", "only_open", "lost_both"]
        assert row[names].tolist() == [int(one.sum()) for one in counts]
        assert row["protected"] == pytest.approx((counts[0].sum() - counts[1].sum()) / common.sum())
        losses = [float((one["intact"] * 1 - one[name]).mean()) for one in (told, read)]
        shares = [
            loss / float((one["intact"] * 1 - one["no layers"]).mean())
            for loss, one in zip(losses, (told, read), strict=True)
        ]
        assert row[["loss_closed", "loss_open"]].tolist() == pytest.approx(losses)
        assert row[["share_closed", "share_open"]].tolist() == pytest.approx(shares)
        assert row["share_difference"] == pytest.approx(shares[0] - shares[1])
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["share_low"] <= row["share_difference"] <= row["share_high"]
    assert (table["n_common"] == common.sum()).all()


def test_bootstrap_bounds_by_brute_force(books: AblationResult) -> None:
    wide = books.records.assign(item=books.records["item"].str[-4:]).pivot(
        index="item", columns=["task", "intervention"], values="correct"
    )
    net = sum(
        sign * (wide[task]["intact"] * 1 - wide[task]["skip:layer=2"])
        for task, sign in (("told", 1), ("read", -1))
    ).to_numpy()
    drawn = stats.resample_indices(len(net), 2000, stats.generator(0, "told"))
    low, high = np.quantile(net[drawn].mean(axis=1), [0.025, 0.975])
    row = books.books().set_index("layer").loc[2]
    assert [row["low"], row["high"]] == pytest.approx([low, high], abs=0.011)


def test_p_values_are_exact_two_sided_and_corrected(books: AblationResult) -> None:
    table = books.books()
    assert table["p_table"].tolist() == pytest.approx(stats.holm(table["p"].to_numpy()))
    assert table["p_run"].tolist() == pytest.approx(table["p_table"].tolist())
    changed = books.records.set_index(["task", "item", "intervention"])["correct"]
    row = table.set_index("layer").loc[2]
    gained = int((~changed["told"].xs("intact", level=1)
                  & changed["told"].xs("skip:layer=2", level=1)).sum())  # fmt: skip
    trials = row["only_closed"] + row["only_open"] + gained
    trials += int(np.ceil(row["luck_open"] * row["lost_both"] - 1e-9))
    expected = 2 * binom.sf(row["only_closed"] - 1, trials, 1 / (2 - row["luck_open"]))
    assert row["p"] == pytest.approx(expected)


def test_what_is_planted_is_found_and_told(books: AblationResult) -> None:
    table, (pair,) = books.books(), books.book_tables()["book_pairs"].to_dict("records")
    more = table.dropna(subset="loses_more").set_index("layer")["loses_more"].to_dict()
    assert more == {2: "closed", 5: "open"}
    assert (pair["n_closed_more"], pair["n_open_more"], pair["both_sorts"]) == (1, 1, True)
    run = run_tables([books])
    (finding,) = passage_findings(run)
    row = table.set_index("layer").loc[2]
    assert finding.short == (
        "When it chooses, skipping layer 2 loses more answers of told without the passage than "
        "with it, layer 5 fewer."
    )
    assert finding.evidence == "established"
    assert finding.p == table.loc[table["loses_more"].notna(), "p_run"].max()
    assert "(p < 0.001, Holm over layers and pairs" in finding.full
    assert finding.items == f"{row['n_common']} items right both ways"
    ends = ("protected", "protected_run_low", "protected_run_high")
    assert interval(*(100 * row[name] for name in ends)) in finding.full
    assert "bounds for all 8 tests of the run together" in finding.full
    assert "Layer 2 loses more without the passage and layer 5 loses more with" in finding.full
    assert "neither only that the passage makes the questions easier nor" in finding.full
    assert finding.caveat == ""
    assert finding.source["at"] == {"layer": [2, 5]}


@pytest.mark.long
def test_without_layers_of_both_sorts_it_may_only_be_easier() -> None:
    one_sided = planted_books()
    kept = one_sided.records.loc[~one_sided.records["layer"].isin([5])]
    (finding,) = passage_findings(run_tables([replace(one_sided, records=kept)]))
    assert finding.short.endswith("answers of told without the passage than with it.")
    assert "it may only make the questions easier or harder" in finding.caveat
    assert "does not say where knowledge is" in finding.caveat
    idle = one_sided.records.loc[~one_sided.records["layer"].isin([2, 5])]
    (finding,) = passage_findings(run_tables([replace(one_sided, records=idle)]))
    assert finding.evidence == "not established"
    assert "At least 11 would have to be lost one way and none the other." in finding.details


def test_nothing_is_compared_without_signal_of_both() -> None:
    rng = np.random.default_rng(0)
    guessed = np.repeat(rng.random((60, 1)) < 0.25, N_LAYERS + 1, axis=1)
    sure = np.ones((60, N_LAYERS + 1), dtype=bool)
    sure[:, 3] = False
    tables = ablation(asked_twice(guessed, sure)).book_tables()
    assert tables["books"].empty
    (pair,) = tables["book_pairs"].to_dict("records")
    assert (pair["signal_closed"], pair["signal_open"]) == (False, True)
    assert pd.isna(pair["p"])


def test_tasks_that_are_no_pairs_have_no_tables(books: AblationResult) -> None:
    apart = replace(books, records=books.records.assign(closed_book=None))
    assert not {"books", "book_pairs"} & set(apart.derived_tables())
    earlier = replace(books, records=books.records.drop(columns="closed_book"))
    assert earlier.book_tables()["book_pairs"].empty


def test_items_of_that_name_that_ask_for_something_else_are_no_pair(books: AblationResult) -> None:
    """A suite with other arguments has items of the same names."""
    told = books.records["task"] == "told"
    facts = books.records["item"].str[-4:].where(~told, "other " + books.records["item"].str[-4:])
    other = replace(books, records=books.records.assign(cluster=facts))
    assert other.book_tables()["book_pairs"].empty


# Models of known answer


@pytest.mark.long
def test_layers_that_know_are_protected_and_layers_that_read_are_not() -> None:
    layout = WiredLayout(reads_facts=True)
    tasks = [toy.facts(WIRED, n_items=48), toy.facts_open_book(WIRED, n_items=48)]
    result = ablate(wired_model(layout), tasks, ("continuation", "generate"), progress=False)
    for _, table in result.books().groupby("protocol"):
        more = table.set_index("layer")["loses_more"]
        assert more.dropna().to_dict() == {layout.facts.layer: "closed", layout.gate.layer: "open"}
        idle = table.loc[more.isna().to_numpy()]
        assert len(idle) == layout.n_layers - 2
        assert (idle[["only_closed", "only_open", "lost_both"]] == 0).all(axis=None)
        lost = table.set_index("layer").loc[layout.facts.layer]
        assert lost["share_difference"] == pytest.approx(1.0)
    assert result.book_tables()["book_pairs"]["both_sorts"].all()


@pytest.fixture(scope="module")
def organism() -> HookedTransformer:
    return load_model("organism-decoder")


@pytest.mark.long
def test_what_a_trained_model_knows_by_its_first_layer_it_reads_where_it_is_stated(organism):
    """Its look-ups find entities too, and what it knows stands in for them: one sort of layers."""
    tasks = [toy.facts(ORGANISM, n_items=40), toy.facts_open_book(ORGANISM, n_items=40)]
    result = ablate(organism, tasks, "continuation", progress=False)
    table = result.books().set_index("layer")
    assert table["loses_more"].dropna().to_dict() == {0: "closed"}
    assert table["margin_closed"][0] > 4 * table["margin_open"][0] > 0
    (finding,) = passage_findings(run_tables([result]))
    assert "Layer 0 loses more without the passage" in finding.full
    assert "it may only make the questions easier or harder" in finding.caveat


@pytest.mark.long
def test_a_passage_that_a_model_cannot_read_protects_nothing(organism) -> None:
    """Facts that are stated as they are asked are no pairs of a key and a value."""
    closed, opened = toy.facts(ORGANISM, n_items=40), toy.facts_open_book(ORGANISM, n_items=40)
    items = [
        replace(item, context=" ".join(
            f"{item.group} of {entity} -> {value} ;"
            for entity, value in re.findall(r"(ent\d+) (v\d+) ;", item.context or "")
        ))
        for item in opened.items
    ]  # fmt: skip
    tasks = [closed, replace(opened, items=tuple(items))]
    result = ablate(organism, tasks, "continuation", layers=[0, 1, 2, 3], progress=False)
    table = result.books().set_index("layer")
    assert table["lost_both"][0] > 0.4 * table["n_common"][0]
    assert table["loses_more"].isna().all()
    assert not result.book_tables()["book_pairs"]["both_sorts"].any()
