from __future__ import annotations

import importlib
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from layerwise.tasks import PatchingPrompts, load_task
from tests.sweep.models import random_model

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROMPTS = PatchingPrompts(
    "made-up", tuple(range(1, 13)), (1, 2, 3, 20, 21, *range(6, 13)), clean_answer=30,
    corrupted_answer=31,
)  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        yield importlib.import_module


@pytest.mark.parametrize("kind", ["llama-gqa", "gpt2"])
def test_patching_agrees_and_its_seconds_are_scaled(scripts, kind):
    patching, model = scripts("patching_sweep"), random_model(kind)
    positions = patching.positions_of(PROMPTS, 3)
    assert positions == [3, 7, 11]
    found = patching.compare(
        model, PROMPTS, ["resid_pre", "attn_out", "mlp_out", "z"], positions, 2
    )
    assert found.gap < 1e-4
    assert [row.cells for row in found.rows] == [12, 12, 12, 48, 84]
    assert found.cells == (12 + 12 + 12 + 48) // 2
    *alone, together = found.rows
    assert together.hooks.seconds == pytest.approx(sum(row.hooks.seconds for row in alone))
    text = patching.table(found.rows, 4, 2)
    assert "from 2 of 4 layers" in text
    assert text.count("\n") == 6


def test_patching_over_own_modules_agrees(scripts):
    model = scripts("growth").over_own_modules(4, 64, 32)
    sites = ["resid_pre", "attn_out", "mlp_out", "z"]
    found = scripts("patching_sweep").compare(model, PROMPTS, sites, [3, 7, 11], 2)
    assert 0 < found.gap < 1e-4
    assert [row.cells for row in found.rows] == [12, 12, 12, 96, 132]


def test_a_patch_that_differs_leaves_no_table(scripts, monkeypatch):
    patching, model = scripts("patching_sweep"), random_model("llama-gqa")
    swapped = replace(PROMPTS, clean=PROMPTS.corrupted)
    true = patching.by_hooks
    monkeypatch.setattr(patching, "by_hooks", lambda model, _, *rest: true(model, swapped, *rest))
    with pytest.raises(SystemExit, match="with hooks"):
        patching.compare(model, PROMPTS, ["resid_pre"], [3], 4)


def test_the_pair_of_prompts_exchanges_two_values(scripts):
    item = load_task("kv-words", limit=1).items[0]
    changed = scripts("patching_sweep").exchange(item).corruption
    assert changed.question == item.question
    assert changed.answer in item.choices
    assert f"{item.question.removeprefix('> ')} {changed.answer}" in changed.context
    assert sorted(changed.context.replace(",", "").split()) == sorted(
        item.context.replace(",", "").split()
    )


def test_growth_is_measured_saved_and_drawn(scripts, tmp_path, monkeypatch, capsys):
    growth = scripts("growth")
    monkeypatch.setattr(growth, "QUICK", {"layers": (2, 4), "items": (1, 2)})
    # tests/sweep/test_peak_memory.py measures in processes of their own.
    monkeypatch.setattr(growth, "each_apart", lambda points: list(map(growth.measure, points)))
    growth.main(["--quick", "--out", str(tmp_path)])
    found = pd.read_csv(tmp_path / "results" / "growth.csv")
    assert found["block_passes"].tolist() == [3, 10, 3, 3]
    assert found["formula"].tolist() == [3, 10, 3, 3]
    assert (found["peak"] < found["budget"]).all()
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("\n| ") == 1 + 4


def test_growth_beyond_what_is_promised_is_refused(scripts):
    growth = scripts("growth")
    good = {
        "varied": "items", "value": 2, "block_passes": 3, "formula": 3, "peak": 10, "budget": 10,
    }  # fmt: skip
    growth.refuse_excess(pd.DataFrame([good]))
    for bad, sentence in ({"block_passes": 4}, "4 block passes"), ({"peak": 11}, "a peak of"):
        with pytest.raises(SystemExit, match=f"items 2: {sentence}"):
            growth.refuse_excess(pd.DataFrame([good, {**good, **bad}]))


def test_slope_of_a_power_law(scripts):
    assert scripts("growth").slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_growth_of_whole_runs_is_measured(scripts):
    growth = scripts("growth_of_runs")
    sizes = [growth.Size(items=n, options=3, layers=2) for n in (4, 8)]
    rows = [
        {"varied": "items", "value": size.items, **asdict(growth.measure(size))} for size in sizes
    ]
    found = pd.DataFrame(rows)
    assert (found[["load", "run", "tables"]] > 0).all(axis=None)
    text = growth.table(found)
    assert text.count("\n| items") == 2
    planned = growth.measure(growth.Size(planned=8, options=3))
    assert planned.run > 0
    assert planned.tables == planned.comparison == 0


def test_growth_over_runs_is_that_of_their_comparison(scripts):
    growth = scripts("growth_of_runs")
    whole = {"load": 1.0, "run": 1.0, "tables": 1.0, "peak": 2**20}
    rows = [{"varied": "runs", "value": n, **whole, "comparison": float(n**2)} for n in (2, 4)]
    assert growth.table(pd.DataFrame(rows)).endswith("| 16.0 | 2.00 | 1 |")
