"""Typed results: what an analysis concludes, with the facts needed to repeat it.

What a result can do (save, load, show itself) is in ``_result``; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from layerwise.errors import DamagedResultsError, UserError
from layerwise.ground.arguments import check_arguments
from layerwise.results.atomic_files import is_folder
from layerwise.results.base import Result, computed_once
from layerwise.results.notebook import heading
from layerwise.results.parquet import frame
from layerwise.results.provenance import RUN_FILE, Facts, join_facts, read_facts
from layerwise.stats import effects as _effects
from layerwise.stats import over_items as _summaries

from . import notebook_tables as _html
from .attribution import tables as _attribution_tables
from .attribution_patching import agreement as _attribution_agreement
from .heads import tables as _head_tables
from .logit_lens import tables as _lens_tables
from .patching import tables as _patching_tables
from .removal import tables as _removal_tables
from .similarity import prediction_tables as _prediction_tables
from .similarity import tables as _similarity_tables
from .tuned_lens import tables as _tuned_tables


def records_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Ablation records as a table with the columns and types of ``records.parquet``.

    Args:
        rows: one dict per row; columns that allow null may be left out.

    Raises:
        ValueError: if a row has an unknown column, or lacks a value that it must have.
    """
    return frame("records", rows)


def lens_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """As ``records_frame``, for ``lens.parquet``."""
    return frame("lens", rows)


def patching_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """As ``records_frame``, for ``patching.parquet``."""
    return frame("patching", rows)


@dataclass(frozen=True, repr=False, eq=False)
class AblationResult(Result):
    """What was answered with parts of the model changed.

    Attributes:
        records: ``records.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("records",)
    title: ClassVar[str] = "Ablation: what hurts most"
    if_empty: ClassVar[str] = "No task has signal: the intact model is not above chance."

    records: pd.DataFrame
    facts: Facts

    @computed_once
    def signal(self) -> pd.DataFrame:
        """``signal.parquet``: is the intact model above chance, per task and protocol?"""
        return _effects.signal_table(self.records, self.facts.chance)

    @computed_once
    def effects(self) -> pd.DataFrame:
        """``effects.parquet``: the paired effect of every intervention."""
        return _effects.effects_table(self.records, self.facts.chance, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``signal`` and ``effects``."""
        return {"signal": self.signal(), "effects": self.effects()}

    def summary_rows(self) -> pd.DataFrame:
        """The most harmful interventions by protocol."""
        return _html.ablation_rows(self.effects(), self.facts.model.n_encoder_layers)


@dataclass(frozen=True, repr=False, eq=False)
class LensResult(Result):
    """What each layer would answer, read through the unembedding.

    Attributes:
        lens: ``lens.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("lens",)
    title: ClassVar[str] = "Logit lens: the answer's first token, layer by layer"
    if_empty: ClassVar[str] = "Nothing was read."

    lens: pd.DataFrame
    facts: Facts

    @computed_once
    def summary(self) -> pd.DataFrame:
        """Averages over items per task, protocol and place, with bootstrap intervals.

        Returns:
            ``task``, ``capability``, ``protocol``, ``lens``, ``over``, ``site``, ``pos``,
            ``layer``, ``n_items``, ``median_rank``, ``logprob``, ``logprob_low``,
            ``logprob_high``, ``entropy``, ``kl`` (nats).
        """
        return _summaries.lens_summary(self.lens, self.facts.seed)

    @computed_once
    def prediction_depths(self) -> pd.DataFrame:
        """``prediction_depth.parquet``: the layer from which each final answer stays on top."""
        model = self.facts.model
        return _lens_tables.prediction_depths(self.lens, model.n_layers, model.n_encoder_layers)

    @computed_once
    def derived(self) -> dict[str, pd.DataFrame]:
        """Prediction depths, their means by capability, and tests between capabilities."""
        depths = self.prediction_depths()
        if not len(depths):
            return {}
        given = (depths, _lens_tables.guessing(self.facts), self.facts.seed)
        return {
            "prediction_depth": depths,
            "prediction_depth_means": _lens_tables.depth_means(*given),
            "prediction_depth_comparisons": _lens_tables.depth_comparisons(*given),
        }

    def summary_rows(self) -> pd.DataFrame:
        """Median rank and log-probability per protocol and layer."""
        return _html.lens_rows(self.lens, self.facts.model.n_encoder_layers)


@dataclass(frozen=True, repr=False, eq=False)
class TunedLensResult(Result):
    """How a tuned lens reads texts that it was not trained on, beside the untranslated lens.

    Attributes:
        tuned_lens: ``tuned_lens.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("tuned_lens",)
    title: ClassVar[str] = "Tuned lens: KL divergence from the final distribution"
    if_empty: ClassVar[str] = "No text was held out."

    tuned_lens: pd.DataFrame
    facts: Facts

    @computed_once
    def layers(self) -> pd.DataFrame:
        """``tuned_lens_layers.parquet``: both lenses by layer, paired over held-out texts."""
        return _tuned_tables.layers_table(self.tuned_lens, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``tuned_lens_layers``."""
        return {"tuned_lens_layers": self.layers()}

    def summary_rows(self) -> pd.DataFrame:
        """KL of both lenses by layer, with intervals."""
        return _html.tuned_rows(self.layers(), self.facts.model.n_encoder_layers)

    def _heading(self) -> str:
        table = self.tuned_lens
        kinds = ", ".join(table["kind"].unique())
        return f"{self.facts.model.name}; {kinds}; {table['text'].nunique()} held-out texts"


@dataclass(frozen=True, repr=False, eq=False)
class PatchingResult(Result):
    """Where putting one run's activation into another carries the answer over.

    Attributes:
        patching: ``patching.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("patching",)
    title: ClassVar[str] = "Activation patching: where the answer comes back"
    if_empty: ClassVar[str] = "No pair could be patched."

    patching: pd.DataFrame
    facts: Facts

    @computed_once
    def summary(self) -> pd.DataFrame:
        """Share of the logit difference per cell, with intervals and tests.

        Returns:
            ``task``, ``capability``, ``protocol``, ``direction``, ``site``, ``layer``, ``head``,
            ``pos_label``, ``n_items``, ``recovered``, ``recovered_low``, ``recovered_high``,
            ``p_bh``, ``significant``.
        """
        return _patching_tables.patching_summary(self.patching, self.facts.seed)

    @computed_once
    def effects(self) -> pd.DataFrame:
        """``patching_effects.parquet``: the same by every metric, in its unit, too."""
        return _patching_tables.patching_effects(self.patching, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``patching_effects``."""
        return {"patching_effects": self.effects()}

    def summary_rows(self) -> pd.DataFrame:
        """The layers and positions that recover most."""
        return _html.patching_rows(self.summary(), self.facts.model.n_encoder_layers)


@dataclass(frozen=True, repr=False, eq=False)
class AttributionResult(Result):
    """What each layer, sublayer and head adds directly to the answer's logit.

    Attributes:
        attribution: ``attribution.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("attribution",)
    title: ClassVar[str] = "Direct logit attribution: what adds most to the answer"
    if_empty: ClassVar[str] = (
        "No task has signal: the answer's first token is not above those of the other choices "
        "more often than by chance."
    )

    attribution: pd.DataFrame
    facts: Facts

    @computed_once
    def summary(self) -> pd.DataFrame:
        """``attribution_summary.parquet``: means over items with intervals and tests."""
        return _attribution_tables.summary_table(self.attribution, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``attribution_summary``."""
        return {"attribution_summary": self.summary()}

    def summary_rows(self) -> pd.DataFrame:
        """The parts that add most to the logit difference, of tasks with signal."""
        return _html.attribution_rows(self.summary(), self.facts.model.n_encoder_layers)


@dataclass(frozen=True, repr=False, eq=False)
class HeadsResult(Result):
    """Which heads attend as induction heads do, on random tokens that are repeated.

    Attributes:
        heads: ``heads.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("heads",)
    title: ClassVar[str] = "Heads on repeated random tokens: highest prefix matching"
    if_empty: ClassVar[str] = "No head was scored."

    heads: pd.DataFrame
    facts: Facts

    @property
    def threshold(self) -> float:
        """Above this, an induction head's prefix-matching score lies with its whole interval."""
        return float(self.facts.settings["threshold"])  # type: ignore[arg-type]

    @computed_once
    def summary(self) -> pd.DataFrame:
        """``heads_summary.parquet``: mean scores over sequences, with intervals."""
        return _head_tables.summary_table(self.heads, self.threshold, self.facts.seed)

    def induction_heads(self) -> list[tuple[int, int]]:
        """The layer and head of every induction head."""
        found = self.summary()
        chosen = found.loc[found["induction_head"]]
        return list(zip(map(int, chosen["layer"]), map(int, chosen["head"]), strict=True))

    def derived(self) -> dict[str, pd.DataFrame]:
        """``heads_summary``."""
        return {"heads_summary": self.summary()}

    def summary_rows(self) -> pd.DataFrame:
        """The heads with the highest prefix-matching scores."""
        return _html.head_rows(self.summary(), self.facts.model.n_encoder_layers)

    def _heading(self) -> str:
        count, length = (self.facts.settings[name] for name in ("sequences", "length"))
        return f"{self.facts.model.name}; {count} sequences of {length} random tokens, repeated"


@dataclass(frozen=True, repr=False, eq=False)
class PathPatchingResult(Result):
    """Which components act on a receiver directly.

    Attributes:
        path_patching: ``path_patching.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("path_patching",)
    title: ClassVar[str] = "Path patching: which components act on a receiver directly"
    if_empty: ClassVar[str] = "No pair could be patched."

    path_patching: pd.DataFrame
    facts: Facts

    @computed_once
    def effects(self) -> pd.DataFrame:
        """``path_effects.parquet``: averages over pairs, with intervals and tests."""
        return _patching_tables.path_effects(self.path_patching, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``path_effects``."""
        return {"path_effects": self.effects()}

    def summary_rows(self) -> pd.DataFrame:
        """The paths that matter most."""
        return _html.path_rows(self.effects())


@dataclass(frozen=True, repr=False, eq=False)
class AttributionPatchingResult(Result):
    """What patches would do, estimated by gradients, with true patches of a sample beside them.

    Attributes:
        attribution_patching: ``attribution_patching.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("attribution_patching",)
    title: ClassVar[str] = "Attribution patching: gradient estimates, and how they agree"
    if_empty: ClassVar[str] = "No pair could be patched."

    attribution_patching: pd.DataFrame
    facts: Facts

    @computed_once
    def cells(self) -> pd.DataFrame:
        """Means over pairs of every cell's estimated and true change, nats.

        Returns:
            ``task``, ``capability``, ``protocol``, ``direction``, ``site``, ``layer``, ``head``,
            ``pos_label``, ``n_items``, ``estimate``, ``true`` (nan where it was not patched).
        """
        return _attribution_agreement.cell_means(self.attribution_patching)

    @computed_once
    def agreement(self) -> pd.DataFrame:
        """``attribution_agreement.parquet``: rank correlation with true patches of a sample."""
        table = self.attribution_patching
        return _attribution_agreement.agreement_table(table, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``attribution_agreement``."""
        return {"attribution_agreement": self.agreement()}

    def summary_rows(self) -> pd.DataFrame:
        """How estimates and true patches agree, by task and site."""
        return _html.agreement_rows(self.agreement())


@dataclass(frozen=True, repr=False, eq=False)
class EmergenceResult(Result):
    """At what depth capabilities emerge, by which method, and in what order.

    Attributes:
        emergence: ``emergence.parquet``.
        order: ``order.parquet``.
        method_agreement: ``method_agreement.parquet``.
        protocol_interaction: ``protocol_interaction.parquet``.
        left_out: ``left_out.parquet``: what no claim is made about, and why.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = (
        "emergence", "order", "method_agreement", "protocol_interaction", "left_out",
    )  # fmt: skip
    joins_others: ClassVar[bool] = True
    title: ClassVar[str] = "Emergence: depth from 0 (first layer) to 1 (last)"
    if_empty: ClassVar[str] = "No capability can be placed; see left_out for the reasons."

    emergence: pd.DataFrame
    order: pd.DataFrame
    method_agreement: pd.DataFrame
    protocol_interaction: pd.DataFrame
    left_out: pd.DataFrame
    facts: Facts

    def summary_rows(self) -> pd.DataFrame:
        """Depths and critical sets with their intervals."""
        return _html.emergence_rows(self.emergence)

    def _heading(self) -> str:
        table = self.emergence
        tasks = sorted({task for names in table["tasks"] for task in names.split(",")})
        n_items = sum(task.n_items for task in self.facts.tasks if task.name in tasks)
        return heading(self.facts, n_items, sorted(table["protocol"].unique()), tasks)


@dataclass(frozen=True, repr=False, eq=False)
class RemovalResult(Result):
    """In which order layers can be removed, and what is left of the accuracy.

    Attributes:
        removal: ``removal.parquet``: every answer of every candidate.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("removal",)
    title: ClassVar[str] = "Removal of layers: in which order, and what is left"
    if_empty: ClassVar[str] = (
        "No order is concluded: the intact model is not above chance on the items to select by."
    )

    removal: pd.DataFrame
    facts: Facts

    @property
    def orders(self) -> dict[tuple[str, str], list[tuple[int, ...]]]:
        """The layers left out at each step, by order and protocol; empty without signal.

        In orders of single layers the last one was added at the step.
        """
        return {
            (str(group["by"].iloc[0]), str(group["protocol"].iloc[0])): _removed(group)
            for _, group in self.removal.groupby(["by", "protocol"], sort=False)
        }

    @property
    def order(self) -> list[tuple[int, ...]]:
        """The one of ``orders``, if there is only one.

        Raises:
            UserError: if there are several.
        """
        if len(self.orders) > 1:
            names = ", ".join(f"{by} under {protocol}" for by, protocol in self.orders)
            raise UserError(
                f"There are several orders ({names}), and order is for one alone: take "
                "orders[by, protocol]."
            )
        return next(iter(self.orders.values()), [])

    @property
    def work(self) -> dict[str, float]:
        """Token-passes of all steps, those of one forward per candidate and request, seconds."""
        keys = ("token_passes", "brute_force_token_passes", "seconds")
        mine = [e for e in self.facts.work if e["analysis"] == "layer removal"]
        return {key: float(sum(entry[key] for entry in mine)) for key in keys}  # type: ignore[misc]

    @computed_once
    def signal(self) -> pd.DataFrame:
        """Is the intact model above chance on the items to select by? As ``signal.parquet``."""
        split = _removal_tables.SELECTION
        return _removal_tables.signal_table(self.removal, self.facts.chance, split)

    @computed_once
    def steps(self) -> pd.DataFrame:
        """``removal_steps.parquet``: the paired effect of each step, by split and task."""
        return _removal_tables.steps_table(self.removal, self.facts.chance, self.facts.seed)

    @computed_once
    def candidates(self) -> pd.DataFrame:
        """``removal_candidates.parquet``: what each candidate loses, and which was chosen."""
        return _removal_tables.candidates_table(self.removal, self.facts.chance)

    @computed_once
    def curves(self) -> pd.DataFrame:
        """``removal_curves.parquet``: what each step loses of a capability, on held-out items."""
        return _removal_tables.curves_table(self.removal, self.facts.chance, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``removal_steps``, ``removal_candidates`` and ``removal_curves``."""
        return {
            "removal_steps": self.steps(),
            "removal_candidates": self.candidates(),
            "removal_curves": self.curves(),
        }

    def summary_rows(self) -> pd.DataFrame:
        """Each step's accuracy, where layers were selected and where they were not."""
        return _html.removal_rows(self.steps(), self.facts.model.n_encoder_layers)


@dataclass(frozen=True, repr=False, eq=False)
class PruningResult(Result):
    """A model written without some layers: what was predicted of it, and what it does.

    Attributes:
        pruning: ``pruning.parquet``: every item under the three models.
        facts: what is needed to repeat the run; the model is the original.
    """

    tables: ClassVar[tuple[str, ...]] = ("pruning",)
    title: ClassVar[str] = "Pruning: predicted by skipping, and measured on the written model"
    if_empty: ClassVar[str] = "No item was asked."

    pruning: pd.DataFrame
    facts: Facts

    @computed_once
    def summary(self) -> pd.DataFrame:
        """Accuracies and agreement per task and protocol.

        Returns:
            ``task``, ``capability``, ``protocol``, ``n_items``, ``intact_accuracy``,
            ``predicted_accuracy``, ``measured_accuracy``, ``largest_difference`` (of the gold
            log-probability, nats; null under ``generate``), ``same_texts`` (share of the items;
            null under the other protocols).
        """
        return _summaries.pruning_summary(self.pruning)

    def summary_rows(self) -> pd.DataFrame:
        """Accuracies and agreement per task and protocol."""
        return _html.pruning_rows(self.summary())


@dataclass(frozen=True, repr=False, eq=False)
class SimilarityResult(Result):
    """How alike the residual streams before and after layers are.

    Attributes:
        similarity: ``similarity.parquet``: block influence and angular distances of every item.
        cka: ``cka.parquet``: linear CKA of every pair of depths, over items.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("similarity", "cka")
    title: ClassVar[str] = "Similarity of layers: those that turn the stream least"
    if_empty: ClassVar[str] = "No prompt was read."

    similarity: pd.DataFrame
    cka: pd.DataFrame
    facts: Facts

    @computed_once
    def angular(self) -> pd.DataFrame:
        """``angular.parquet``: angular distance across every block of layers."""
        return _similarity_tables.angular_table(self.similarity, self.facts.seed)

    @computed_once
    def influence(self) -> pd.DataFrame:
        """``influence.parquet``: block influence of every layer."""
        return _similarity_tables.influence_table(self.similarity, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``angular`` and ``influence``."""
        return {"angular": self.angular(), "influence": self.influence()}

    def predicts(self, ablation: AblationResult) -> pd.DataFrame:
        """``prediction.parquet``: how well similarity ranks layers by what skipping them costs.

        Args:
            ablation: skips of all layers, of the same model and items.

        Raises:
            UserError: if it is of another model or of other items.
        """
        facts = join_facts([self.facts, ablation.facts])
        seed, tables = self.facts.seed, (self.similarity, self.cka, ablation.records)
        n_encoder = self.facts.model.n_encoder_layers
        return _prediction_tables.prediction_table(*tables, facts.chance, seed, n_encoder)

    def summary_rows(self) -> pd.DataFrame:
        """The layers with the least block influence."""
        return _html.similarity_rows(self.influence(), self.facts.model.n_encoder_layers)


RESULTS: tuple[type[Result], ...] = (
    AblationResult, LensResult, TunedLensResult, PatchingResult, PathPatchingResult,
    AttributionPatchingResult, AttributionResult, SimilarityResult, RemovalResult, PruningResult,
    HeadsResult, EmergenceResult,
)  # fmt: skip


@check_arguments()
def load_results(folder: str | Path) -> list[Result]:
    """Read whatever results are in a folder.

    Raises:
        UserError: if the folder does not exist, holds no result or an unfinished run, or a table
            is damaged, missing or changed since it was written and does not follow from others.

    Warns:
        MadeAgainWarning: if tables were missing or changed, and were made again from others.
    """
    from .restoring import restore  # which knows all results

    folder = Path(folder)
    if not is_folder(folder):
        raise UserError(f"No folder {folder}: expected the folder of a run; check the path.")
    if (folder / RUN_FILE).exists():
        read_facts(folder)
        restore(folder)
    kinds = [kind for kind in RESULTS if _there(kind, folder)]
    if not kinds:
        raise DamagedResultsError(
            f"No results in {folder}: expected {_or([kind.tables[0] for kind in RESULTS])}; "
            "check the path, or run an analysis with this folder."
        )
    return [kind.load(folder) for kind in kinds]


def _there(kind: type[Result], folder: Path) -> bool:
    """Whether a folder holds a result; one that joins others must be whole, or is made again."""
    needed = kind.tables if kind.joins_others else kind.tables[:1]
    return all((folder / f"{name}.parquet").exists() for name in needed)


def _removed(order: pd.DataFrame) -> list[tuple[int, ...]]:
    chosen = order.loc[order["chosen"]].drop_duplicates("step")
    return [tuple(layers) for layers in chosen.sort_values(by="step")["layers"]]


def _or(names: Sequence[str]) -> str:
    files = [f"{name}.parquet" for name in names]
    return f"{', '.join(files[:-1])} or {files[-1]}"
