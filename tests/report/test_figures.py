from __future__ import annotations

import base64
import errno
import io
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from legible import WIDTHS, assert_legible, cells, lines, words
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image
from synthetic import HOSTILE, Plan

from layerwise.analyses.logit_lens.figures import median_ranks
from layerwise.errors import UserError
from layerwise.presentation.layer_axis import layer_ticks
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import rows
from layerwise.presentation.save import figure_bytes, picture, png_address
from layerwise.presentation.style import style
from layerwise.presentation.wording import number
from layerwise.report import figures
from layerwise.results import LensResult, Result
from layerwise.storage.run_tables import RunTables
from tests.cases import LONG

FIGURES = {
    "role_map": lambda run, width: figures.role_map(run.tables["effects"], width=width),
    "accuracy": lambda run, width: figures.accuracy_by_layer(run.tables["effects"], width=width),
    "protocols": lambda run, width: figures.protocol_comparison(run.tables["effects"], width=width),
    "lens": lambda run, width: figures.lens_curves(run.tables["lens"], width=width),
    "patching": lambda run, width: figures.patching_map(
        run.tables["patching_summary"], width=width
    ),
    "emergence": lambda run, width: figures.emergence_ranges(run.tables["emergence"], width=width),
    "ladder": lambda run, width: figures.ladder(run.tables["ladder"], width=width),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", list(FIGURES))
def test_texts_are_readable_and_apart(name: str, width: float, run: RunTables, extremes) -> None:
    far = extremes["least" if width > 5 else "most"]
    for tables in (run, far) if LONG else (far,):
        figure = FIGURES[name](tables, width)
        assert_legible(figure, width)


def test_the_check_of_readability_can_fail() -> None:
    for place, size in (((0.5, 0.5), 6), ((0.99, 0.5), 8), ((0.5, 0.502), 8)):
        figure = Figure(figsize=(3, 3))
        figure.text(0.5, 0.5, "one text", fontsize=8)
        figure.text(*place, "another text", fontsize=size)
        with pytest.raises(AssertionError):
            assert_legible(figure)


def strip_of(figure: Figure, task: str) -> Axes:
    return next(a for a in figure.axes if a.get_title(loc="left").startswith(f"{task} ("))


def test_role_map_dots_are_at_the_significant_layers(effects: pd.DataFrame, plan: Plan) -> None:
    figure = figures.role_map(effects)
    dots = lines(figure, "significant")
    assert len(dots) == len(plan.tasks)
    assert sum(len(line.get_xdata()) for line in dots) == effects["significant"].sum()
    axes = strip_of(figure, "facts")
    (line,) = (line for line in axes.lines if line.get_gid() == "significant")
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    for i, protocol in enumerate(names):
        at = np.asarray(line.get_xdata())[np.asarray(line.get_ydata()) == i + 0.5] - 0.5
        assert tuple(at.astype(int)) == plan.critical[protocol]
    assert set(names) == set(plan.protocols)


def test_role_map_marks_gains_apart_from_losses(effects: pd.DataFrame) -> None:
    mine = rows(effects, task="facts", protocol="letter").reset_index(drop=True)
    assert "significant gain" not in words(figures.role_map(mine))
    mine.loc[mine["layer"] == 9, ["acc_diff", "significant"]] = [-0.1, True]
    figure = figures.role_map(mine)
    assert "significant gain" in words(figure)
    marks = {gid: list(lines(figure, gid)[0].get_xdata()) for gid in ("significant", "gain")}
    assert marks == {"significant": [0.5], "gain": [9.5]}


def test_role_map_colour_is_the_share(effects: pd.DataFrame) -> None:
    shown = rows(effects, task="facts", protocol="generate")
    figure = figures.role_map(shown)
    wanted = shown.sort_values("layer")["share_lost"].to_numpy()
    axes = strip_of(figure, "facts")
    assert np.allclose(cells(axes).ravel(), wanted)
    assert {mesh.get_clim() for mesh in axes.collections if isinstance(mesh, QuadMesh)} == {(0, 1)}


def test_rows_without_signal_are_hatched_and_explained(effects: pd.DataFrame, plan: Plan) -> None:
    figure = figures.role_map(effects)
    hatched = [patch for axes in figure.axes for patch in axes.patches if patch.get_hatch()]
    assert len(hatched) == len(plan.silent)
    assert "no signal: intact model not better than blind" in words(figure)


def test_figures_say_units_items_and_names(small_run: RunTables) -> None:
    said = {name: words(draw(small_run, 6.9)) for name, draw in FIGURES.items()}
    assert all("n = " in text for text in said.values())
    assert "share of above-floor accuracy lost" in said["role_map"]
    assert "accuracy (%)" in said["accuracy"]
    assert "no signal: letter\n" in said["accuracy"]
    assert "accuracy lost (%)" in said["protocols"]
    assert "(nats)" in said["lens"]
    assert "share recovered" in said["patching"]
    assert "relative depth" in said["emergence"]


def test_accuracy_lines_are_the_table(effects: pd.DataFrame) -> None:
    mine = rows(effects, task="two-hop")
    figure = figures.accuracy_by_layer(mine)
    for protocol in ("letter", "generate"):
        (line,) = lines(figure, f"accuracy {protocol}")
        expected = rows(mine, protocol=protocol).sort_values("layer")
        assert np.allclose(line.get_ydata(), 100 * expected["acc"])
        assert (line.get_alpha() == 1) == bool(expected["signal"].iloc[0])
    assert {line.get_ydata()[0] for line in lines(figure, "floor")} == {0, 25}
    assert len(lines(figure, "intact")) == 3
    bands = [c for axes in figure.axes for c in axes.collections]
    assert len(bands) == 1


def test_accuracies_stand_beside_the_measured_floor_and_other_questions(effects):
    mine = rows(effects, task="facts").assign(floor=0.125)
    signal = mine.drop_duplicates("protocol").assign(blind=0.5)
    figure = figures.accuracy_by_layer(mine, signal=signal)
    assert {line.get_ydata()[0] for line in lines(figure, "floor")} == {12.5}
    assert [line.get_ydata()[0] for line in lines(figure, "blind letter")] == [50]
    unmeasured = figures.accuracy_by_layer(mine.assign(floor=np.nan), signal=signal)
    assert {line.get_ydata()[0] for line in lines(unmeasured, "floor")} == {0, 25}


def test_bands_are_the_intervals(effects: pd.DataFrame) -> None:
    mine = rows(effects, task="sums", protocol="letter").sort_values("layer")
    figure = figures.accuracy_by_layer(mine)
    (band,) = figure.axes[0].collections
    low, high = band.get_datalim(figure.axes[0].transData).intervaly
    assert low == pytest.approx(100 * (mine["acc_intact"] - mine["acc_diff_high"]).min())
    most = 100 * (mine["acc_intact"] - mine["acc_diff_low"]).max()
    assert high == pytest.approx(min(most, 100.0))


def test_protocol_lines_tell_significance_and_difference(run, effects, plan):
    mine = rows(effects, task="facts")
    figure = figures.protocol_comparison(mine, dissociations=run.tables["dissociations"])
    for protocol in plan.protocols:
        (marks,) = lines(figure, f"sure share {protocol}")
        assert tuple(marks.get_xdata()) == plan.critical[protocol]
    (apart,) = lines(figure, "apart")
    assert {1, 12, 13} <= set(apart.get_xdata()) <= {0, 1, 12, 13}
    named = [str(line.get_gid()) for line in figure.axes[0].lines]
    joined, dots = (
        [
            line
            for name, line in zip(named, figure.axes[0].lines, strict=True)
            if name[: len(of)] == of
        ]
        for of in ("share ", "sure share ")
    )
    assert len({str(line._unscaled_dash_pattern) for line in joined}) == 3
    assert (
        len({line.get_marker() for line in dots}) == len({line.get_color() for line in dots}) == 3
    )


def test_protocols_without_signal_are_not_compared(effects: pd.DataFrame) -> None:
    figure = figures.protocol_comparison(rows(effects, task="two-hop"))
    drawn = {str(line.get_gid()) for line in figure.axes[0].lines}
    assert {name for name in drawn if name.startswith("share")} == {"share generate"}


def test_lens_bands_are_those_of_the_result(results: list[Result]) -> None:
    (lens,) = (result for result in results if isinstance(result, LensResult))
    mine = rows(lens.lens, task="facts", protocol="letter")
    told = rows(lens.summary(), task="facts", protocol="letter").sort_values("layer")
    figure = figures.lens_curves(mine, measures=("logprob",), seed=lens.facts.seed)
    (line,) = lines(figure, "logprob")
    assert np.allclose(line.get_xdata(), told["layer"].astype(float))
    assert np.allclose(line.get_ydata(), told["logprob"])
    (band,) = figure.axes[0].collections
    low, high = band.get_datalim(figure.axes[0].transData).intervaly
    assert (low, high) == pytest.approx((told["logprob_low"].min(), told["logprob_high"].max()))
    n = mine["item"].nunique()
    tooltips = figure.tooltips  # type: ignore[attr-defined]
    assert all(text.endswith(f"] nats, n = {n}") for _, _, text, _ in tooltips)


def test_median_interval_is_the_textbook_one() -> None:
    # Order statistics 2 and 9 of ten, 5 and 16 of twenty: printed tables for the median.
    for n, (low, high) in {10: (2, 9), 20: (6, 15), 4: (1, 4)}.items():
        table = pd.DataFrame({"item": range(n), "layer": 0, "rank": range(n)})
        (row,) = median_ranks(table).itertuples()
        assert (row.low, row.high, row.estimate) == (low, high, (n + 1) / 2)


def test_patching_cells_are_the_summary(patched: pd.DataFrame) -> None:
    mine = rows(patched, task="facts")
    figure = figures.patching_map(mine)
    wide = mine.pivot_table(index="layer", columns="pos_label", values="recovered")
    wide = wide[["first changed", "last changed", "next", "further", "last"]]
    (mesh,) = (m for m in figure.findobj(QuadMesh) if m.get_array().size == wide.size)
    assert np.allclose(mesh.get_array().ravel(), wide.to_numpy().ravel())
    assert mesh.norm.vmin == -mesh.norm.vmax
    several = figures.patching_map(patched)
    marked = sum(len(line.get_xdata()) for line in lines(several, "negative"))
    assert marked == (patched["recovered"] < -0.1).sum() > 0


def test_emergence_points_and_critical_sets(plan: Plan) -> None:
    table = synthetic.emergence(plan)
    figure = figures.emergence_ranges(table)
    points = sorted(line.get_xdata()[0] for line in lines(figure, "estimate"))
    depths = table[table["measure"] != "critical set"]
    assert np.allclose(points, sorted(depths["estimate"]))
    marked = {tuple(np.round(line.get_xdata() * 29)) for line in lines(figure, "critical")}
    assert marked == set(plan.critical.values())


def test_saved_figures_are_the_same_bytes_each_time(effects: pd.DataFrame, tmp_path: Path) -> None:
    mine = rows(effects, task=["facts", HOSTILE])
    first, second = (
        figures.save_figure(figures.role_map(mine), tmp_path / name, "map") for name in "ab"
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    svg = first[1].read_text()
    assert "<dc:date>" not in svg
    assert "<script" not in svg


def test_a_folder_that_cannot_be_made_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"is a file: expected a folder for figures; choose"):
        figures.save_figure(Figure(), tmp_path / "file", "map")


def test_a_full_disk_is_told_and_the_older_figure_stays(tmp_path: Path, monkeypatch) -> None:
    png, _ = figures.save_figure(Figure(), tmp_path, "map")
    before = png.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left to write .*map\.png: free some disk space"):
        figures.save_figure(Figure(figsize=(1, 1)), tmp_path, "map")
    assert png.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.png", "map.svg"]


def test_a_pointer_gets_the_value_of_every_cell_where_it_is_drawn(effects: pd.DataFrame) -> None:
    mine = rows(effects, task="facts", protocol="generate").sort_values("layer")
    figure = figures.role_map(mine)
    drawing = str(picture(figure, "", 3, 10_000_000))
    box = r'd="M([\d.]+) ([\d.]+)h([\d.]+)v[^"]*"[^>]*><title>([^<]*)</title>'
    found = re.findall(box, drawing)
    assert len(found) == len(mine)
    for (x, _, width, text), row in zip(found, mine.itertuples(), strict=True):
        assert text.startswith(f"generate, layer {row.layer}: {number(100 * row.share_lost)} [")
        verdict = "significant" if row.significant else "not significant"
        assert text.endswith(f"] % lost, n = {row.n_items}, {verdict}")
        (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left"))
        left = axes.transData.transform((row.layer, 0))[0] * 72 / figure.dpi
        assert float(x) == pytest.approx(left, abs=0.1)
        assert float(width) > 5


def test_a_mark_says_what_changed_its_items(effects: pd.DataFrame) -> None:
    shown = rows(effects, task="facts", kind="skip", site="layer")
    expected = {
        f"skip|layer|facts|{row['protocol']}|{row['layer']}" for row in shown.to_dict("records")
    }
    for draw in (figures.role_map, figures.accuracy_by_layer, figures.protocol_comparison):
        drawing = str(picture(draw(shown), "", 0, 10_000_000))
        changes = set(re.findall('data-change="([^"]*)"', drawing))
        assert changes <= expected
        # Points of two protocols in one place open the first one's.
        assert len(changes) >= len(expected) / (1 if draw is figures.role_map else 2)


def test_a_figure_in_a_page_has_names_of_its_own(effects: pd.DataFrame) -> None:
    figure = figures.accuracy_by_layer(rows(effects, task="facts"))
    first, second = (str(picture(figure, "a <b>", nth, 10_000_000)) for nth in (0, 1))
    ids = [set(re.findall(r'id="([^"]*)"', one)) for one in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', first)) == ids[0]
    assert 'aria-label="a &lt;b&gt;"' in first
    assert not re.search(r"<!--|<style|xmlns|fill: #ffffff\"", first)
    assert len(first) < len(figure_bytes(figure, "svg"))


def test_a_page_takes_a_figure_in_few_colours(effects: pd.DataFrame) -> None:
    figure = figures.role_map(rows(effects, task="facts"))
    content = base64.b64decode(png_address(figure).partition(",")[2])
    full = figure_bytes(figure, "png")
    assert len(content) < len(full) / 2
    with Image.open(io.BytesIO(content)) as small, Image.open(io.BytesIO(full)) as original:
        assert small.size == original.size
        off = np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(original.convert("RGB")))
    assert off.mean() < 1


@pytest.mark.parametrize(("ending", "left_out"), [("svg", "Date Creator"), ("png", "Software")])
def test_a_figure_is_what_matplotlib_itself_writes(effects, ending, left_out):
    figure = figures.role_map(rows(effects, task="facts"))
    canvas, dpi, buffer = figure.canvas, figure.dpi, io.BytesIO()
    with style():
        figure.savefig(buffer, format=ending, dpi=200, metadata=dict.fromkeys(left_out.split()))
    assert figure_bytes(figure, ending) == buffer.getvalue()
    assert (figure.canvas, figure.dpi) == (canvas, dpi)


def test_the_same_svg_is_drawn_once_until_the_figure_is_changed(effects: pd.DataFrame) -> None:
    figure = figures.role_map(rows(effects, task="facts"))
    first = figure_bytes(figure, "svg")
    assert figure_bytes(figure, "png") != first
    assert figure_bytes(figure, "svg") is first
    figure.axes[0].set_title("changed")
    changed = figure_bytes(figure, "svg")
    assert changed != first
    figure.dpi = 2 * figure.dpi  # of no consequence, but a change
    assert figure_bytes(figure, "svg") == changed


def test_labels_are_safe_and_short() -> None:
    assert label("a $5 b$") == r"a \$5 b\$"
    assert label("line\nbreak\x00") == "line break "
    assert label("日本") == "□□"
    assert label("key-value look-up, random identifiers", 20) == "key-value …entifiers"
    assert len(label("x" * 100, 9)) == 9


def test_layer_ticks_keep_their_distance() -> None:
    assert layer_ticks(range(30), 30 * 0.2) == list(range(30))
    assert layer_ticks(range(80), 4.0) == list(range(0, 80, 5))
    assert layer_ticks([3], 1.0) == [3]
