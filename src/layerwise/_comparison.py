"""A finished comparison: its tables, what is needed to repeat it, and its page.

How runs are compared is in ``compare``; how it is drawn and told, in ``report/``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
from pydantic import Field, ValidationError

from layerwise._facts import Facts, Frozen, Stamped
from layerwise._files import write_atomically
from layerwise._tables import conform, read_table, write_table
from layerwise.errors import UserError

if TYPE_CHECKING:
    from layerwise.report import Finding, Report

FACTS_FILE, PAGE, FIGURES = "comparison.json", "comparison.html", "figures"


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

    @property
    def groups(self) -> list[str]:
        """Names of the groups; none if runs were compared one by one."""
        return list(dict.fromkeys(run.group for run in self.runs if run.group is not None))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What differs between runs, and how sure that is.

    Attributes:
        layers: ``comparison_layers.parquet``: what changing each layer of each run costs.
        estimates: ``comparison_estimates.parquet``: each run by itself.
        differences: ``comparison_differences.parquet``: every two runs, or every two groups.
        groups: ``comparison_groups.parquet``: the spread within groups; empty without groups.
        left_out: ``comparison_left_out.parquet``: what was not compared, and why.
        facts: what is needed to repeat it.
    """

    tables: ClassVar[tuple[str, ...]] = ("layers", "estimates", "differences", "groups", "left_out")

    layers: pd.DataFrame = field(repr=False)
    estimates: pd.DataFrame = field(repr=False)
    differences: pd.DataFrame = field(repr=False)
    groups: pd.DataFrame = field(repr=False)
    left_out: pd.DataFrame = field(repr=False)
    facts: ComparisonFacts = field(repr=False)

    def __post_init__(self) -> None:
        for name in self.tables:
            object.__setattr__(self, name, conform(f"comparison_{name}", getattr(self, name)))

    def report(self) -> Report:
        """The page with figures, sentences and tables."""
        from layerwise.report.comparison import comparison_report

        return comparison_report(self)

    def established(self) -> list[Finding]:
        """The sentences that a test supports, the largest difference first."""
        from layerwise.report._find_differences import established

        return established(self.differences)

    def save(self, folder: str | Path) -> Path:
        """Write the tables, ``comparison.json``, ``comparison.html`` and ``figures/``.

        Args:
            folder: made if it does not exist; those of an earlier comparison are replaced.

        Returns:
            The path of the page.

        Raises:
            UserError: if the folder cannot be written, or the disk is full.
        """
        folder, facts = Path(folder), self.facts.model_dump_json(indent=2)
        for name in self.tables:
            table = f"comparison_{name}"
            write_table(folder / f"{table}.parquet", table, getattr(self, name), facts)
        write_atomically(folder / FACTS_FILE, facts.encode())
        page = self.report()
        page.save_figures(folder / FIGURES)
        return page.save(folder / PAGE)

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Read a comparison that was saved.

        Raises:
            UserError: if a file is missing or damaged.
        """
        folder = Path(folder)
        path = folder / FACTS_FILE
        try:
            facts = ComparisonFacts.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UserError(
                f"{path} is missing or damaged: expected what `layerwise compare` wrote; "
                "compare the runs again."
            ) from error
        read = {n: read_table(folder / f"comparison_{n}.parquet", f"comparison_{n}")[0]
                for n in cls.tables}  # fmt: skip
        return cls(**read, facts=facts)

    def __repr__(self) -> str:
        found = sum(self.differences["significant"])
        return (
            f"Comparison({', '.join(self.facts.groups or [r.name for r in self.facts.runs])}; "
            f"{found} of {len(self.differences)} differences established)"
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()
