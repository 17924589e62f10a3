"""What a comparison is made of: its tables, their measures, and what is needed to repeat it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field

from layerwise.storage.joined_folder import JoinedFolder, JoinedRuns
from layerwise.storage.places import COMPARISON_PAGE
from layerwise.storage.provenance import Facts, Frozen, Stamped

# Centres of mass and critical sets are given for each run, and not compared.
MEASURES = (
    "accuracy", "half-effect depth", "prediction depth", "early third", "middle third",
    "late third",
)  # fmt: skip
AXES = ("computation", "encoder", "decoder")
# What the values of a family are counted in, and how many of these are 1.
UNITS = {
    "accuracy": ("accuracy (%)", 100),
    "depth": ("depth (%)", 100),
    "share lost": ("score lost per layer (%)", 100),
    "critical set": ("critical layers (% of all)", 100),
}


class RunFacts(Frozen):
    """A run that was compared."""

    name: str = Field(description="What it is called in the tables.")
    group: str | None = Field(description="The group that it belongs to; null without groups.")
    facts: Facts = Field(description="What is needed to repeat it; of its tasks, those compared.")


class ComparisonFacts(Stamped):
    """Everything needed to repeat a comparison."""

    seed: int = Field(description="The seed of the bootstrap over items.")
    n_resamples: int = Field(description="Number of bootstrap samples.")
    runs: tuple[RunFacts, ...] = Field(description="The runs, in the order given.")
    n_tests: dict[str, int] = Field(
        default={},
        description="How many tests of each family were corrected together, those of what could "
        "not be compared as well; in comparisons of earlier versions nothing.",
    )
    files: dict[str, str] = Field(
        default={},
        description="In comparison.json: SHA-256 of each table by name, and under its own name "
        "that of all else that it says.",
    )

    @property
    def groups(self) -> list[str]:
        """Names of the groups; none if runs were compared one by one."""
        return list(dict.fromkeys(run.group for run in self.runs if run.group is not None))


FOLDER = JoinedFolder(
    "comparison", ComparisonFacts, COMPARISON_PAGE,
    "a folder for the comparison", ("layerwise compare", "compare the runs again"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ComparedRuns(JoinedRuns):
    """What differs between runs, and how sure that is, as tables.

    Attributes:
        layers: ``comparison_layers.parquet``: what changing each layer of each run costs.
        estimates: ``comparison_estimates.parquet``: each run by itself.
        differences: ``comparison_differences.parquet``: every two runs, or every two groups.
        groups: ``comparison_groups.parquet``: the spread within groups; empty without groups.
        left_out: ``comparison_left_out.parquet``: what was not compared, and why.
        facts: what is needed to repeat it.
    """

    home: ClassVar[JoinedFolder[Any]] = FOLDER
    tables: ClassVar[tuple[str, ...]] = FOLDER.tables

    layers: pd.DataFrame = field(repr=False)
    estimates: pd.DataFrame = field(repr=False)
    differences: pd.DataFrame = field(repr=False)
    groups: pd.DataFrame = field(repr=False)
    left_out: pd.DataFrame = field(repr=False)
    facts: ComparisonFacts = field(repr=False)

    def claimable(self) -> pd.DataFrame:
        """The differences of which something may be claimed.

        A mean loss over the layers of a third counts layers: it is not compared between models
        that have other numbers of them.
        """
        depths: dict[str, set[int]] = {}
        for run in self.facts.runs:
            depths.setdefault(run.group or run.name, set()).add(run.facts.model.n_layers)
        alike = [
            family != "share lost" or depths.get(first) == depths.get(second)
            for family, first, second in self.differences[["family", "first", "second"]].itertuples(
                index=False
            )
        ]
        return pd.DataFrame(self.differences.loc[alike])
