from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import synthetic
from planted_heads import planted_heads
from synthetic import Plan

from layerwise.analyses.registry import run_tables
from layerwise.presentation.rows import records, rows
from layerwise.presentation.section import Part
from layerwise.presentation.wording import WAY, interval, protocol_words
from layerwise.report import report
from layerwise.report._layers import layer_grid
from layerwise.results import AblationResult, LensResult, PatchingResult
from layerwise.storage.run_tables import RunTables

PLAN = Plan(
    n_layers=4,
    n_items=40,
    tasks=(("facts", "knowledge"), ("two-hop", "reasoning"), ("sums", "reasoning")),
    protocols=("letter", "generate"),
    silent=(("two-hop", "letter"), ("facts", "letter")),
    intact=1.0,
    critical={"letter": (1,), "generate": (1, 2)},
    kinds=(("skip", "layer"), ("zero", "attn_out"), ("mean", "mlp_out")),
)
NEEDED = {"letter": ((1, 2),), "generate": ((1, 2), (3, 0))}


@pytest.fixture(scope="module")
def run() -> RunTables:
    """One ablation of layers, sublayers and heads, as a profile in depth makes it."""
    told = synthetic.facts(PLAN)
    heads = planted_heads(PLAN, NEEDED).records.query("intervention != 'intact'")
    records_ = pd.concat([synthetic.records(PLAN), heads], ignore_index=True)
    return run_tables([
        AblationResult(records_, told),
        LensResult(synthetic.lens(PLAN, protocols=("letter",)), told),
        PatchingResult(synthetic.patching_rows(PLAN, 2, 6), told),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def layers(run: RunTables) -> dict[int, Part]:
    grid = layer_grid(run)
    assert grid is not None
    return {int(part.title.split()[1]): part for _, part in grid.layers}


def cell_text(part: Part, column: str, task: str, protocol: str) -> str:
    (table,) = [table for table in part.tables if column in table.columns]
    (row,) = [row for row in table.cells if row[1:3] == [task, protocol_words(protocol)]]
    return row[table.columns.index(column)]


def test_the_grid_holds_the_largest_loss_of_each_capability(run: RunTables) -> None:
    grid = layer_grid(run)
    assert grid is not None
    assert grid.columns == ("knowledge, picks a letter", "knowledge, writes",
                            "reasoning, picks a letter", "reasoning, writes")  # fmt: skip
    assert len(grid.layers) == 4
    for layer, (cells, _) in enumerate(grid.layers):
        assert (cells[0].text, cells[0].shade) == ("–", None)
        mine = rows(run.tables["effects"], kind="skip", layer=layer, signal=True)
        for cell, name in zip(cells[1:], grid.columns[1:], strict=True):
            capability, way = name.split(", ")
            there = rows(mine, capability=capability)
            there = there.loc[there["protocol"].map(protocol_words) == way]
            worst = there.loc[there["share_lost"].idxmax()]
            assert cell.text.rstrip("•") == f"{100 * worst['share_lost']:.0f}".replace("-", "−")
            assert cell.text.endswith("•") == worst["significant"]
            assert cell.shade == round(10 * np.clip(worst["share_lost"], 0, 1))
            assert worst["task"] in cell.words
    planted = [cells[3].text.endswith("•") for cells, _ in grid.layers]
    assert planted == [False, True, True, False]


def test_effects_stand_under_the_layer_and_sublayer_that_was_changed(run, layers):
    columns = {
        ("skip", "layer"): "Skipping it: share lost (%)",
        ("zero", "attn_out"): "Setting it to zero: share lost (%)",
        ("mean", "mlp_out"): "Setting it to its mean: share lost (%)",
    }
    for layer, part in layers.items():
        attention, mlp = part.inner
        assert (attention.title, mlp.title) == (f"Attention of layer {layer}",
                                                f"MLP of layer {layer}")  # fmt: skip
        places = {"layer": part, "attn_out": attention, "mlp_out": mlp}
        for (kind, site), column in columns.items():
            for row in records(
                rows(run.tables["effects"], kind=kind, site=site, layer=layer, signal=True)
            ):
                ends = (100 * row[name] for name in ("share_lost", "share_low", "share_high"))
                text = interval(*ends) + " •" * row["significant"]
                assert cell_text(places[site], column, row["task"], row["protocol"]) == text


def test_what_is_read_at_a_layer_is_there(run: RunTables, layers: dict[int, Part]) -> None:
    mine = rows(run.tables["lens"], task="sums", layer=[1, 2])
    mine = mine.assign(p=np.exp(mine["logprob"].astype(float)))
    before, after = (rows(mine, layer=layer) for layer in (1, 2))
    ranks = [f"{1 + table['rank'].median():.0f}" for table in (before, after)]
    columns = ("Logit lens: answer's probability, gain in % points",
               "Logit lens: median rank before → after")  # fmt: skip
    gain, rank = (cell_text(layers[2], column, "sums", "letter") for column in columns)
    assert rank == " → ".join(ranks)
    assert float(gain.split(" [")[0].replace("−", "-")) == pytest.approx(
        100 * (after["p"].mean() - before["p"].mean()), abs=0.05
    )
    depths = rows(run.tables["prediction_depth"], task="sums", right=True)
    settled = "Right answers that settle here (logit lens)"
    for layer, part in layers.items():
        n = len(rows(depths, layer=layer))
        named = [column for table in part.tables for column in table.columns]
        if n:
            assert cell_text(part, settled, "sums", "letter") == f"{n} of {len(depths)}"
        else:
            assert settled not in named or cell_text(part, settled, "sums", "letter") == "–"


def test_heads_are_told_apart_under_the_attention(layers: dict[int, Part]) -> None:
    found = {}
    for layer, part in layers.items():
        (heads,) = part.inner[0].inner
        assert heads.title == f"Heads of layer {layer}"
        (table,) = heads.tables
        found |= {row[0]: row[-1] for row in table.cells}
        assert ("No head of this layer" in table.note) == (not table.cells)
    assert found == {"1.2": "4 of 4", "3.0": "3 of 4"}


@pytest.mark.long
def test_only_what_was_run_is_shown() -> None:
    told = synthetic.facts(PLAN)
    alone = Plan(**{**vars(PLAN), "kinds": (("skip", "layer"),)})
    grid = layer_grid(run_tables([AblationResult(synthetic.records(alone), told)]))
    assert grid is not None
    for _, part in grid.layers:
        assert [len(part.tables), part.inner] == [1, ()]
        (table,) = part.tables
        assert table.columns == ("capability", "task", WAY, "Skipping it: share lost (%)")
        assert not any("picks a letter" in row and row[1] != "sums" for row in table.cells)
    lens = LensResult(synthetic.lens(PLAN, protocols=("letter",)), told)
    assert layer_grid(run_tables([lens])) is None
    assert layer_grid(run_tables([planted_heads(PLAN, NEEDED)])) is None


class DetailsDepth(HTMLParser):
    """Depth of each summary in details."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.depth, self.depths, self.tables = 0, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.depth += tag == "details"
        self.depths += [self.depth] * (tag == "summary")
        self.tables += [self.depth] * (tag == "table")

    def handle_endtag(self, tag):
        self.depth -= tag == "details"


def test_the_page_opens_layers_then_sublayers_then_heads() -> None:
    told = synthetic.facts(PLAN)
    parts = [AblationResult(synthetic.records(PLAN), told), planted_heads(PLAN, NEEDED)]
    one = AblationResult(
        pd.concat([parts[0].records, parts[1].records.query("intervention != 'intact'")]), told
    )
    text = report(one).html
    opened = DetailsDepth(text.split('<div class="layers">')[1].split("</section>")[0])
    assert opened.depths == 4 * [1, 2, 3, 2]
    assert opened.depth == 0
    assert set(opened.tables) == {1, 2, 3}
    assert text.count("<script") == 1  # the page's own
    # all is lost of every item, which leaves no width to a bootstrap: the bounds are exact ones
    assert re.search(r'aria-label="reasoning, writes: 100 \[\d\d, 1\d\d\] % lost in', text)
