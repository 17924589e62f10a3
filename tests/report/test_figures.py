"""Contents of figures of ablations, lenses, patches and depths, and their pictures."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from legible import cells, line, lines, words
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image
from synthetic import HOSTILE, Plan

from layerwise.analyses.logit_lens.figures import median_ranks
from layerwise.presentation.layer_axis import layer_ticks
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import rows
from layerwise.presentation.save import figure_bytes, picture, png_address
from layerwise.presentation.style import style
from layerwise.presentation.wording import number, protocol_words
from layerwise.report import figures
from layerwise.results import LensResult, Result


@pytest.fixture(scope="module")
def facts_map(effects: pd.DataFrame) -> Figure:
    """A picture of one task; not to be changed."""
    return figures.role_map(rows(effects, task="facts"))


def task_strip(figure: Figure, task: str) -> Axes:
    return next(a for a in figure.axes if a.get_title(loc="left").startswith(f"{task} ("))


def ends_of_band(axes: Axes) -> tuple[float, float]:
    (band,) = axes.collections
    low, high = band.get_datalim(axes.transData).intervaly
    return float(low), float(high)


def test_role_map_has_shares_as_colours_dots_where_significant_and_hatches(effects, plan):
    figure = figures.role_map(effects)
    dots = lines(figure, "significant")
    assert sum(len(of_task.get_xdata()) for of_task in dots) == effects["significant"].sum()
    axes = task_strip(figure, "facts")
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == [protocol_words(protocol) for protocol in plan.protocols]
    (marks,) = (each for each in axes.lines if each.get_gid() == "significant")
    for i, protocol in enumerate(plan.protocols):
        at = np.asarray(marks.get_xdata())[np.asarray(marks.get_ydata()) == i + 0.5] - 0.5
        assert tuple(at.astype(int)) == plan.critical[protocol]
        shown = rows(effects, task="facts", protocol=protocol).sort_values("layer")
        assert np.allclose(cells(axes)[i], shown["share_lost"])
    assert {mesh.get_clim() for mesh in axes.collections if isinstance(mesh, QuadMesh)} == {(0, 1)}
    hatched = [patch for each in figure.axes for patch in each.patches if patch.get_hatch()]
    assert len(hatched) == len(plan.silent)
    assert "no signal: intact model not better than blind" in words(figure)


def test_role_map_marks_gains_apart_from_losses(effects: pd.DataFrame) -> None:
    shown = rows(effects, task="facts", protocol="letter").reset_index(drop=True)
    assert "significant gain" not in words(figures.role_map(shown))
    shown.loc[shown["layer"] == 9, ["acc_diff", "significant"]] = [-0.1, True]
    figure = figures.role_map(shown)
    assert "significant gain" in words(figure)
    marks = {gid: list(line(figure, gid).get_xdata()) for gid in ("significant", "gain")}
    assert marks == {"significant": [0.5], "gain": [9.5]}


def test_accuracy_lines_are_the_table_pale_and_without_band_where_there_is_no_signal(effects):
    shown = rows(effects, task="two-hop")
    figure = figures.accuracy_by_layer(shown)
    for protocol in ("letter", "generate"):
        expected = rows(shown, protocol=protocol).sort_values("layer")
        drawn = line(figure, f"accuracy {protocol}")
        assert np.allclose(drawn.get_ydata(), 100 * expected["acc"])
        assert (drawn.get_alpha() == 1) == bool(expected["signal"].iloc[0])
    assert {level.get_ydata()[0] for level in lines(figure, "floor")} == {0, 25}
    assert len(lines(figure, "intact")) == 3
    able = rows(shown, protocol="generate")
    ends = (able["acc_intact"] - able[f"acc_diff_{end}"] for end in ("high", "low"))
    low, high = (100 * accuracy.clip(0, 1) for accuracy in ends)
    assert ends_of_band(figure.axes[0]) == pytest.approx((low.min(), high.max()))


def test_accuracies_stand_beside_the_measured_floor_and_other_questions(effects):
    shown = rows(effects, task="facts").assign(floor=0.125)
    signal = shown.drop_duplicates("protocol").assign(blind=0.5)
    figure = figures.accuracy_by_layer(shown, signal=signal)
    assert {level.get_ydata()[0] for level in lines(figure, "floor")} == {12.5}
    assert line(figure, "blind letter").get_ydata()[0] == 50
    unmeasured = figures.accuracy_by_layer(shown.assign(floor=np.nan), signal=signal)
    assert {level.get_ydata()[0] for level in lines(unmeasured, "floor")} == {0, 25}


def test_protocol_lines_tell_significance_and_difference(run, effects, plan):
    figure = figures.protocol_comparison(
        rows(effects, task="facts"), dissociations=run.tables["dissociations"]
    )
    shares = [line(figure, f"share {protocol}") for protocol in plan.protocols]
    dots = [line(figure, f"sure share {protocol}") for protocol in plan.protocols]
    for protocol, marks in zip(plan.protocols, dots, strict=True):
        assert tuple(marks.get_xdata()) == plan.critical[protocol]
    assert {1, 12, 13} <= set(line(figure, "apart").get_xdata()) <= {0, 1, 12, 13}
    assert len({str(drawn._unscaled_dash_pattern) for drawn in shares}) == 3
    assert len({marks.get_marker() for marks in dots}) == 3
    assert len({marks.get_color() for marks in dots}) == 3
    silent = figures.protocol_comparison(rows(effects, task="two-hop"))
    drawn = {str(drawn.get_gid()) for drawn in silent.axes[0].lines}
    assert {name for name in drawn if name.startswith("share")} == {"share generate"}


def test_lens_bands_are_those_of_the_result(results: list[Result]) -> None:
    (lens,) = (result for result in results if isinstance(result, LensResult))
    of_task = rows(lens.lens, task="facts", protocol="letter")
    summary = rows(lens.summary(), task="facts", protocol="letter").sort_values("layer")
    figure = figures.lens_curves(of_task, measures=("logprob",), seed=lens.facts.seed)
    drawn = line(figure, "logprob")
    assert np.allclose(drawn.get_xdata(), summary["layer"].astype(float))
    assert np.allclose(drawn.get_ydata(), summary["logprob"])
    ends = summary["logprob_low"].min(), summary["logprob_high"].max()
    assert ends_of_band(figure.axes[0]) == pytest.approx(ends)
    n, tooltips = of_task["item"].nunique(), figure.tooltips  # type: ignore[attr-defined]
    assert all(text.endswith(f"] nats, n = {n}") for _, _, text, _ in tooltips)


def test_median_interval_is_the_textbook_one() -> None:
    # Order statistics 2 and 9 of ten, 5 and 16 of twenty: printed tables for the median.
    for n, (low, high) in {10: (2, 9), 20: (6, 15), 4: (1, 4)}.items():
        table = pd.DataFrame({"item": range(n), "layer": 0, "rank": range(n)})
        (row,) = median_ranks(table).itertuples()
        assert (row.low, row.high, row.estimate) == (low, high, (n + 1) / 2)


def test_patching_cells_are_the_summary(patching_summary: pd.DataFrame) -> None:
    of_task = rows(patching_summary, task="facts")
    wide = of_task.pivot_table(index="layer", columns="pos_label", values="recovered")
    wide = wide[["first changed", "last changed", "next", "further", "last"]]
    (mesh,) = (m for m in figures.patching_map(of_task).findobj(QuadMesh)
               if m.get_array().size == wide.size)  # fmt: skip
    assert np.allclose(mesh.get_array().ravel(), wide.to_numpy().ravel())
    assert mesh.norm.vmin == -mesh.norm.vmax
    marked = lines(figures.patching_map(patching_summary), "negative")
    n_negative = (patching_summary["recovered"] < -0.1).sum()
    assert sum(len(of_panel.get_xdata()) for of_panel in marked) == n_negative > 0


def test_emergence_points_and_critical_sets(plan: Plan) -> None:
    table = synthetic.emergence(plan)
    figure = figures.emergence_ranges(table)
    points = sorted(point.get_xdata()[0] for point in lines(figure, "estimate"))
    assert np.allclose(points, sorted(table[table["measure"] != "critical set"]["estimate"]))
    marked = {tuple(np.round(marks.get_xdata() * 29)) for marks in lines(figure, "critical")}
    assert marked == set(plan.critical.values())


def test_saved_figures_are_the_same_bytes_each_time(effects: pd.DataFrame, tmp_path: Path) -> None:
    shown = rows(effects, task=["facts", HOSTILE])
    first, second = (
        figures.save_figure(figures.role_map(shown), tmp_path / name, "map") for name in "ab"
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    svg = first[1].read_text()
    assert "<dc:date>" not in svg
    assert "<script" not in svg


def test_a_pointer_gets_the_value_of_every_cell_where_it_is_drawn(effects: pd.DataFrame) -> None:
    shown = rows(effects, task="facts", protocol="generate").sort_values("layer")
    figure = figures.role_map(shown)
    (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left"))
    box = r'd="M([\d.]+) ([\d.]+)h([\d.]+)v[^"]*"[^>]*><title>([^<]*)</title>'
    boxes = re.findall(box, str(picture(figure, "", 3, 10_000_000)))
    assert len(boxes) == len(shown)
    for (x, _, width, text), row in zip(boxes, shown.itertuples(), strict=True):
        assert text.startswith(f"writes, layer {row.layer}: {number(100 * row.share_lost)} [")
        verdict = "significant" if row.significant else "not significant"
        assert text.endswith(f"] % lost, n = {row.n_items}, {verdict}")
        left = axes.transData.transform((row.layer, 0))[0] * 72 / figure.dpi
        assert float(x) == pytest.approx(left, abs=0.1)
        assert float(width) > 5


def test_a_mark_says_what_changed_its_items(effects: pd.DataFrame) -> None:
    shown = rows(effects, task="facts", kind="skip", site="layer")
    expected = {f"skip|layer|facts|{row.protocol}|{row.layer}" for row in shown.itertuples()}
    for draw in (figures.role_map, figures.accuracy_by_layer, figures.protocol_comparison):
        drawing = str(picture(draw(shown), "", 0, 10_000_000))
        changes = set(re.findall('data-change="([^"]*)"', drawing))
        assert changes <= expected
        # Points of two protocols in one place open the first one's.
        assert len(changes) >= len(expected) / (1 if draw is figures.role_map else 2)


def test_a_figure_in_a_page_has_names_of_its_own(facts_map: Figure) -> None:
    first, second = (str(picture(facts_map, "a <b>", nth, 10_000_000)) for nth in (0, 1))
    ids = [set(re.findall(r'id="([^"]*)"', drawing)) for drawing in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', first)) == ids[0]
    assert 'aria-label="a &lt;b&gt;"' in first
    assert not re.search(r"<!--|<style|xmlns|fill: #ffffff\"", first)
    assert len(first) < len(figure_bytes(facts_map, "svg"))


def test_a_page_takes_a_figure_in_few_colours(facts_map: Figure) -> None:
    content = base64.b64decode(png_address(facts_map).partition(",")[2])
    full = figure_bytes(facts_map, "png")
    assert len(content) < len(full) / 2
    with Image.open(io.BytesIO(content)) as small, Image.open(io.BytesIO(full)) as original:
        assert small.size == original.size
        off = np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(original.convert("RGB")))
    assert off.mean() < 1


@pytest.mark.parametrize(
    ("ending", "noted"),
    [("svg", {"Date": None, "Creator": "layerwise"}), ("png", {"Software": "layerwise"})],
)
def test_a_figure_is_what_matplotlib_itself_writes(effects, ending, noted):
    figure = figures.role_map(rows(effects, task="facts"))
    canvas, dpi, buffer = figure.canvas, figure.dpi, io.BytesIO()
    with style():
        figure.savefig(buffer, format=ending, dpi=200, metadata=noted)
    assert figure_bytes(figure, ending) == buffer.getvalue()
    assert (figure.canvas, figure.dpi) == (canvas, dpi)


def test_the_same_svg_is_drawn_once_until_the_figure_is_changed(effects: pd.DataFrame) -> None:
    figure = figures.role_map(rows(effects, task="facts"))
    first = figure_bytes(figure, "svg")
    assert figure_bytes(figure, "svg") is first
    figure.axes[0].set_title("changed")
    changed = figure_bytes(figure, "svg")
    assert changed != first
    figure.dpi = 2 * figure.dpi  # of no consequence, but a change
    assert figure_bytes(figure, "svg") == changed


def test_labels_are_safe_and_short_and_ticks_keep_their_distance() -> None:
    assert label("a $5 b$") == r"a \$5 b\$"
    assert label("line\nbreak\x00") == "line break "
    assert label("日本") == "□□"
    assert label("key-value look-up, random identifiers", 20) == "key-value …entifiers"
    assert len(label("x" * 100, 9)) == 9
    assert layer_ticks(range(30), 30 * 0.2) == list(range(30))
    assert layer_ticks(range(80), 4.0) == list(range(0, 80, 5))
    assert layer_ticks([3], 1.0) == [3]
