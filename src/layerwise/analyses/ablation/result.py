"""The typed result of ablation, the compact table of a notebook, and the result item by item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.ground.argument_types import ExpectedWords, Whole
from layerwise.ground.arguments import check_arguments
from layerwise.ground.layer_names import layer_number
from layerwise.ground.readers import AnyPath, Reads, path
from layerwise.presentation import no_signal
from layerwise.presentation.columns import drop_columns, in_short
from layerwise.presentation.section import draw_table
from layerwise.stats.capability_layers import estimates_table
from layerwise.stats.cells import has_several_examples
from layerwise.stats.effects import BASELINES, corrected_p, effects_table, signal_table
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import frame
from layerwise.storage.places import is_folder
from layerwise.storage.provenance import Facts, join_facts

from .page.columns import SCORE, effect_columns
from .tables.items import FATES, answers, of_task, records_without_layer
from .tables.questions import question_table, read_questions
from .tables.saved_effects import is_set
from .tables.scoring_steps import compare_steps, scoring_steps_table, with_passages

_CELL = ["task", "protocol"]
# What names a record: the intact model's is one however often a run asks it.
ANSWER = [*_CELL, "item", "intervention", "draw", "examples"]
# Other batches round differently; other prompts differ by far more (nats).
_SAME = 0.1


@dataclass(frozen=True, repr=False, eq=False)
class AblationResult(Result):
    """Outcomes of every item with parts of the model changed, and their paired effects.

    Attributes:
        records: ``records.parquet``.
        facts: what is needed to repeat the run.
        questions: gives what was asked, as text (``questions``); None if that is not known.
    """

    tables: ClassVar[tuple[str, ...]] = ("records",)
    title: ClassVar[str] = "Ablation: what hurts most"
    if_empty: ClassVar[str] = "No task has signal: the intact model is not better than blind."

    records: pd.DataFrame
    facts: Facts
    questions: Callable[[], pd.DataFrame] | None = None

    @classmethod
    def load(cls, folder: str | Path) -> AblationResult:
        """As of every result; questions are read from its folder when they are asked for."""
        result = super().load(folder)
        items = frozenset(map(str, result.records["item"].unique()))
        return replace(result, questions=partial(read_questions, Path(folder), items))

    @cache_tables
    def signal(self) -> pd.DataFrame:
        """``signal``: is the intact model better than blind, per task and protocol?"""
        return signal_table(self.records, self.facts.chance)

    @cache_tables
    def effects(self) -> pd.DataFrame:
        """``effects``: the paired effect of every intervention."""
        interest = SmallestEffects.from_settings(self.facts.settings)
        return effects_table(self.records, self.facts.chance, self.facts.seed, interest)

    @cache_tables
    def capability_estimates(self) -> pd.DataFrame:
        """Needs of capabilities, differences between them, and spare layers."""
        smallest = SmallestEffects.from_settings(self.facts.settings).loss
        return estimates_table(self.records, self.facts.chance, smallest)

    @cache_tables
    def ladder(self) -> pd.DataFrame:
        """``ladder``: what changing each layer costs at every scoring step."""
        if has_several_examples(self.records):
            return frame("ladder", [])  # steps are compared answer by answer
        return scoring_steps_table(self.records, self.effects(), self.facts)

    @cache_tables
    def ladder_steps(self) -> dict[str, pd.DataFrame]:
        """``ladder_steps`` and ``dissociations``: does another scoring step need other layers?"""
        return compare_steps(self.records, self.ladder(), self.facts)

    @cache_tables
    def book_tables(self) -> dict[str, pd.DataFrame]:
        """``books`` and ``book_pairs``: of items asked closed and open book, what is protected."""
        return with_passages(self.records, self.signal(), self.facts)

    def books(self) -> pd.DataFrame:
        """``books``: what each change costs with a passage and without it."""
        return self.book_tables()["books"]

    def derived_tables(self) -> dict[str, pd.DataFrame]:
        """``signal`` and ``effects``; the ladder of scoring and pairs of books where there are."""
        tables = {"signal": self.signal(), "effects": self.effects()}
        estimates = self.capability_estimates()
        tables |= {} if estimates.empty else {"capability_estimates": estimates}
        books = self.book_tables()
        tables |= {} if books["book_pairs"].empty else books
        ladder = self.ladder()
        return tables if ladder.empty else tables | {"ladder": ladder} | self.ladder_steps()

    def _figure(self) -> Any:
        """The role map; of heads alone, their maps; of blocks and sets alone, their losses."""
        from .page.figures import head_effect_maps, role_map, set_losses

        effects = self.effects()
        layers = effects.loc[effects["head"].isna()]
        if layers.empty:
            return draw_table(self, head_effect_maps, effects.loc[effects["signal"]])
        single = layers.loc[~is_set(layers)]
        if single.empty:
            return draw_table(self, set_losses, layers.loc[layers["signal"]])
        kind, site = (str(single[name].iloc[0]) for name in ("kind", "site"))
        return draw_table(self, role_map, single, kind, site, signal=self.signal())

    def summary_rows(self) -> pd.DataFrame:
        """The most harmful interventions by protocol; without any, the signal."""
        effects = self.effects()
        if effects.empty:
            return in_short(self, SCORE, self.signal())
        ranked = effects.loc[effects["signal"]].sort_values(
            by="share_lost", ascending=False, kind="stable"
        )
        top = ranked.groupby("protocol", sort=True).head(5)
        top = top.sort_values("protocol", kind="stable")
        return in_short(self, _SHOWN, top.assign(p_corrected=corrected_p(top)))

    def notes(self) -> list[str]:
        """Accuracy of the model where it has no signal, and what to try."""
        return no_signal.sentences(self.signal(), self.facts)


_SHOWN = drop_columns(
    effect_columns("p_corrected", "corrected"),
    "n", "accuracy (%)", "change (points)", "gold log-prob. lost (nats)", "margin lost (nats)",
    "p (run, corrected)",
)  # fmt: skip


def join_ablations(results: Sequence[Result]) -> list[Result]:
    """The results with all ablations among them made one, at the place of the first."""
    runs = [result for result in results if isinstance(result, AblationResult)]
    if len(runs) < 2:
        return list(results)
    if not all(can_join(*pair) for pair in combinations(runs, 2)):
        raise UserError(
            "Two ablations do not belong together, for they hold the same change or their intact "
            "models answered differently: expected other changes under the same prompts; report "
            "them apart."
        )
    records = pd.concat([result.records for result in runs], ignore_index=True)
    again = records.duplicated(ANSWER)  # the intact model, asked again
    records = records.loc[~again]
    facts = join_facts([result.facts for result in runs])
    settings = {}  # all values of one in which they differ
    for name in facts.settings:
        values = [run.facts.settings[name] for run in runs if name in run.facts.settings]
        distinct = [value for i, value in enumerate(values) if value not in values[:i]]
        settings[name] = distinct[0] if len(distinct) == 1 else distinct
    facts = facts.model_copy(update={"settings": settings})
    joined = AblationResult(records, facts, runs[0].questions)
    others = [result for result in results if result not in runs]
    others.insert(list(results).index(runs[0]), joined)
    return others


def can_join(first: AblationResult, other: AblationResult) -> bool:
    """True if no change is in both, and the intact model answered alike where both asked."""
    change = [*_CELL, "intervention", "kind"]
    own, others = (result.records[change].drop_duplicates() for result in (first, other))
    both = own.merge(others)
    if set(both["kind"]) - set(BASELINES):
        return False
    one, two = (
        result.records.query("intervention == 'intact'")
        .merge(both[_CELL].drop_duplicates())
        .sort_values(ANSWER)
        for result in (first, other)
    )
    alike = all(one[name].tolist() == two[name].tolist() for name in ("item", "correct"))
    gold = (table["gold_logprob"].to_numpy(dtype=float) for table in (one, two))
    return alike and np.allclose(*gold, rtol=0, atol=_SAME, equal_nan=True)


def _read_run(name: str, value: Any) -> Any:
    return value if isinstance(value, Result) else path(name, value)


@check_arguments()
def items(
    run: Annotated[AnyPath | AblationResult, Reads(_read_run, "str | Path | AblationResult")],
    layer: Annotated[Whole | str, ExpectedWords("a layer's number or address", "11")],
    task: Annotated[str, ExpectedWords("a text", "'facts'")],
    protocol: str | None = None,
    *,
    changed: bool = True,
) -> pd.DataFrame:
    """List items with the answers of the intact model and of the model without a layer.

    Args:
        run: the folder of a finished run with an ablation of layers, or an ``AblationResult``.
        layer: the layer, from 0, or of an encoder-decoder its address, such as ``encoder.3``.
        task: the name of one task of the run.
        protocol: ``letter``, ``continuation`` or ``generate``; all of the run if None.
        changed: only items that are right with the layer and wrong without it, or the reverse.

    Returns:
        One row per protocol and item: lost items first, then gained ones, each with the largest
        loss of margin first. Columns: ``task``, ``protocol``, ``item``; ``change`` (what was done
        to the layer, ``skip:layer=11``); ``fate`` (``lost``, ``gained``, ``right`` or ``wrong``
        both times); ``prompt`` (its whole text), ``question`` (the prompt without the lines that
        all prompts share), ``options`` (none under ``generate``), ``gold`` (the right answer);
        ``intact`` and ``without`` (the two answers: an option, or the written text);
        ``right_intact`` and ``right_without``; ``margin_intact``, ``margin_without`` and
        ``margin_change`` (in nats; nan under ``generate``). Texts are None where the run did not
        save them.

    Raises:
        UserError: if the folder has no ablation, or the run has no such layer, task or protocol.

    Example:
        >>> lost = layerwise.items("runs/smollm2-135m", layer=11, task="facts")  # doctest: +SKIP
    """
    result = run if isinstance(run, AblationResult) else _load_ablation(run)
    facts, model = result.facts, result.facts.model
    if isinstance(layer, str) or not 0 <= layer < model.n_layers:
        layer = layer_number(str(layer), model.n_encoder_layers, model.n_layers)
    outcomes = of_task(result.records, task, protocol)
    without = records_without_layer(outcomes, layer, facts)
    questions = question_table([]) if result.questions is None else result.questions()
    table = answers(outcomes, without, questions)
    return table.loc[table["fate"].isin(FATES[:2])].reset_index(drop=True) if changed else table


def _load_ablation(run: Any) -> AblationResult:
    """The ablation of a folder."""
    if isinstance(run, Result):
        raise UserError(
            f"Items of a {type(run).__name__} were asked for: expected an AblationResult, or the "
            "folder of a run with one."
        )
    folder = Path(run)
    if not is_folder(folder):
        raise UserError(f"No folder {folder}: expected the folder of a run; check the path.")
    if not (folder / "records.parquet").exists():
        raise UserError(
            f"No records.parquet in {folder}: expected a finished run with an ablation; check the "
            "path, or run layerwise profile or ablate with this folder."
        )
    return AblationResult.load(folder)
