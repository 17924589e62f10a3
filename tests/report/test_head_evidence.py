from __future__ import annotations

import synthetic
from test_attribution_figures import made_up
from test_heads_figure import summary
from test_patching_heads_figure import heads

from layerwise.presentation.wording import interval
from layerwise.report._layers import head_evidence
from layerwise.storage.run_tables import RunTables

FACTS = synthetic.facts(synthetic.Plan())


def listed(run: RunTables) -> list[list[str]]:
    return [row for table in head_evidence(run).values() for row in table.cells]


def test_attribution_names_the_planted_head() -> None:
    table = made_up().summary()
    best = table.query("component == 'z' and layer == 3 and head == 1").iloc[0]
    (row,) = listed(RunTables(FACTS, {"attribution_summary": table}))
    value = interval(best["value"], best["low"], best["high"], 2)
    assert row == ["3.1", "Adds directly (nats)", "facts, continuation", value, "1 of 1"]


def test_patching_names_the_planted_head_and_the_strongest_position() -> None:
    table = heads(n_pairs=16).summary()
    best = table.query("layer == 3 and head == 2").sort_values("recovered").iloc[-1]
    (row,) = [
        row for row in listed(RunTables(FACTS, {"patching_summary": table})) if row[0] == "3.2"
    ]
    assert row[1:3] == ["Patching z: recovered (%)", f"keys, continuation, {best['pos_label']}"]
    assert row[3].startswith(f"{100 * best['recovered']:.0f} [")
    assert row[4] == "2 of 3"


def test_methods_stand_beside_each_other_by_head() -> None:
    patched = heads(n_pairs=16).summary()
    attributed = made_up(n_heads=4).summary()
    run = RunTables(
        FACTS,
        {
            "attribution_summary": attributed,
            "patching_summary": patched,
            "heads_summary": summary(5, 4),
        },
    )
    shown = head_evidence(run)
    assert list(shown) == list(range(6))
    heads_there = [row[0] for row in shown[3].cells]
    assert heads_there == sorted(heads_there)
    assert {"3.1", "3.2"} <= set(heads_there)
    assert "No head of this layer has a significant effect" in shown[5].note
