from __future__ import annotations

import numpy as np
import pytest
from legible import lines, words

from layerwise.report import report
from layerwise.report.figures import removal_curve
from layerwise.results import RemovalResult
from layerwise.storage.parquet import frame
from tests import synthetic

CHANCE = 0.25


def removal(
    n_steps: int, by: str = "greedy", tasks: tuple[str, ...] = ("facts",), n: int = 40
) -> RemovalResult:
    """Every step costs two selection and four held-out items; the intact model knows all."""
    rows = []
    for task in tasks:
        for split, cost in (("selection", 2), ("held out", 4)):
            for step in range(n_steps + 1):
                deepest = range(n_steps, n_steps - step, -1)
                layers = list(deepest) if by == "greedy" else sorted(deepest)
                name = f"skip:layers={'+'.join(map(str, sorted(layers)))}" if step else "intact"
                rows += [
                    {
                        "by": by, "step": step, "intervention": name, "layers": layers,
                        "chosen": step > 0, "split": split, "task": task,
                        "capability": "knowledge", "item": f"{task}/{split}/{i:02d}",
                        "protocol": "letter", "correct": i >= cost * step,
                        "gold_logprob": -0.1 * step, "kind": "skip" if step else "intact",
                    }
                    for i in range(n)
                ]  # fmt: skip
    facts = synthetic.facts(*(synthetic.task_facts(t, "knowledge", CHANCE) for t in tasks),
                            n_layers=n_steps + 2)  # fmt: skip
    return RemovalResult(frame("removal", rows), facts)


def test_lines_and_bands_are_the_table():
    result = removal(5)
    figure, steps = removal_curve(result.steps()), result.steps()
    for split, cost in (("selection", 2), ("held out", 4)):
        (line,) = lines(figure, f"accuracy {split}")
        assert line.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
        np.testing.assert_allclose(line.get_ydata(), [100 - 2.5 * cost * k for k in range(6)])
        (band,) = (c for c in figure.axes[0].collections if c.get_gid() == f"band accuracy {split}")
        low, high = band.get_datalim(figure.axes[0].transData).intervaly
        mine = steps.loc[steps["split"] == split]
        assert low == pytest.approx(100 * (1 - mine["acc_diff_high"].max()))
        assert high == 100
    assert {line.get_ydata()[0] for line in lines(figure, "floor")} == {25}
    assert len(lines(figure, "intact")) == 2


@pytest.mark.parametrize(
    ("by", "names"), [("greedy", ["3", "2", "1"]), ("block", ["3", "2-3", "1-3"])]
)
def test_every_step_says_what_it_removed(by, names):
    figure = removal_curve(removal(3, by).steps())
    (upper,) = (axis for axis in figure.axes[0].child_axes if axis.get_gid() == "removed")
    assert [tick.get_text() for tick in upper.get_xticklabels()] == names
    said = words(figure)
    assert "when it picks a letter" in said
    assert "selection n = 40, held out n = 40" in said


def test_the_report_quotes_the_first_significant_loss_on_held_out_items():
    page = report(removal(5))
    assert list(page.figures) == ["removal"]
    assert "Removal of layers</h2>" in page.html
    (claim,) = page.findings
    steps = removal(5).steps()
    held = steps.loc[steps["split"] == "held out"]
    first = held.loc[held["significant"]].iloc[0]
    assert (first["step"], round(100 * first["acc_diff"])) == (2, 20)
    assert "shows a loss from 2 on" in claim.short
    assert claim.estimate is not None
    row = removal(5).curves().query("step == 2").iloc[0]
    assert claim.estimate.value == pytest.approx(100 * row["share_lost"])
    assert claim.estimate.unit == "% of the above-floor accuracy lost without layers 4 and 5"
    assert (claim.evidence, claim.p) == ("established", row["p_run"])
    assert claim.items == "40 held-out items"
    (quiet,) = report(removal(1, "block")).findings
    assert quiet.evidence == "not established"
