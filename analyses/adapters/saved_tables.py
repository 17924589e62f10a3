"""Files of this study's results: tables, figures and the findings of the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from adapter_figures import layer_effects_figure, what_healing_brings
from adapter_sentences import in_readme
from healed_sentences import CASE
from healed_sentences import in_readme as healed_in_readme

from layerwise.presentation.rows import rows
from layerwise.presentation.save import save_figure

HERE = Path(__file__).parent
RESULTS = HERE / "results"
Named = dict[str, pd.DataFrame]


def append_to_saved(found: Mapping[str, Sequence[pd.DataFrame]], made: Sequence[str]) -> Named:
    """The tables of the cases that were made now, behind those that were made and saved before."""
    whole = {path.stem: pd.read_parquet(path) for path in sorted(RESULTS.glob("*.parquet"))}
    for name, each in found.items():
        before = [one[~one["case"].isin(made)] for one in (whole.get(name),) if one is not None]
        whole[name] = pd.concat([*(one for one in before if len(one)), *each], ignore_index=True)
    return whole


def write(tables: Named) -> None:
    """Tables, the figure, and the findings of the README."""
    RESULTS.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(RESULTS / f"{name}.parquet", index=False)
    figure = layer_effects_figure(tables["layers"], tables["transplant"])
    save_figure(figure, RESULTS / "figures", "where_it_is_done")
    if not rows(tables["gains"], case=CASE).empty:
        save_figure(what_healing_brings(tables["gains"]), RESULTS / "figures", "what_came_back")
    for page in (HERE / "README.md", RESULTS / "numbers.md"):
        text = healed_in_readme(in_readme(page.read_text("utf-8"), tables), tables)
        page.write_text(text, "utf-8")
