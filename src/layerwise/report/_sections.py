"""The parts of a run's page, in reading order; what was not run has no part.

Figures and tables are made elsewhere; here they are put together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.table import Table
from layerwise.presentation.wording import number
from layerwise.report import _draw_emergence, _draw_sets, _drawings
from layerwise.report._layers import Grid, layer_grid
from layerwise.report._tables_shown import (
    agreement_shown,
    attribution_tables,
    effects_tables,
    emergence_tables,
    head_effects_tables,
    heads_table,
    patching_table,
    paths_table,
    pruning_table,
    removal_table,
    settling_tables,
    signal_table,
    similarity_tables,
)
from layerwise.report.run import Run


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, some words, figures and tables; layers to be opened."""

    anchor: str
    heading: str
    words: str = ""
    drawings: tuple[FigureSpec, ...] = ()
    tables: tuple[Table, ...] = ()
    grid: Grid | None = None


_ROLE_WORDS = (
    "What each layer does, as far as leaving it out or overwriting it shows: the share of the "
    "accuracy above guessing that is lost."
)
_HEAD_WORDS = (
    "One attention head changed at a time, where it is still apart from the others (before the "
    "output projection). A head without a loss may still matter where others can stand in for it."
)
_SET_WORDS = (
    "Several layers or heads changed at once. What a block costs can be far more than its layers "
    "one at a time, where these stand in for each other."
)
_PROTOCOL_WORDS = (
    "The same questions scored in other ways. Where the lines lie on each other, what is said "
    "about a layer does not depend on the way of scoring."
)
_LENS_WORDS = (
    "What the model would answer if each layer were its last (final norm and unembedding applied "
    "to the residual stream)."
)
_TUNED_WORDS = (
    "A translator for each layer, trained on other texts, corrects the lens for what later layers "
    "do to every residual stream alike. How near a lens with it and one without come to what the "
    "model says in the end:"
)
_SETTLED_WORDS = (
    "How deep answers settle: of each item answered right, the first layer after which its answer "
    "is the lens's most likely token and stays that to the end. What stands there was written by "
    "the layers before; what they needed for it, a lens does not say."
)
_PATCHING_WORDS = (
    "Two prompts that differ in one thing have different answers. Putting one run's activation "
    "into the other shows which layer and position carry the difference."
)
_ATTRIBUTION_WORDS = (
    "The logits are read from a sum of what all layers and heads wrote, so each one's own share "
    "can be told exactly. It is only what a part writes itself: a layer on which others build may "
    "have none."
)
_HEADS_WORDS = (
    "No task is asked: random tokens are given twice, and what each head attends to at the "
    "second time shows whether it can continue what was there before."
)
_PATH_WORDS = (
    "Which heads and MLPs act on a receiver directly: what one of them writes is taken from the "
    "other run, and reaches the receiver alone."
)
_ESTIMATE_WORDS = (
    "A gradient predicts what every patch would do, at the price of a few forwards. Some patches "
    "were truly made, to see how far that can be trusted."
)
_EMERGENCE_WORDS = (
    "Half-effect depth: where half of the effect is reached. Centre of mass: the mean depth, "
    "weighted by importance. Critical set: layers with a significant loss."
)
_INTERACTION_WORDS = (
    "Whether it depends on the protocol which layers matter, as one test for each capability and "
    "two protocols: do the losses differ by group of layers, beyond a shift that all groups share?"
)
_AGREEMENT_WORDS = (
    "Methods ask different things: what is needed (ablation), what can be read (lenses), what is "
    "enough (patching), what is written (direct attribution). How far their answers are apart, on "
    "the same items:"
)
_REMOVAL_WORDS = (
    "Several layers left out at once: each step tried all that were left, and removed what cost "
    "least. Read the held-out items; the best of many tries looks better than it is on the items "
    "that it was chosen by."
)
_SIMILARITY_WORDS = (
    "How little a layer changes the residual stream. Layers that hardly turn it are those that are "
    "often said to be dispensable; where layers were skipped too, it is shown how far that holds."
)
_PRUNED_WORDS = (
    "A model that was written without some layers, loaded again, and put to the same questions as "
    "the intact model and the intact model that skips these layers. The last two are to agree."
)
_SILENT_WORDS = (
    "Where the exact 95 % interval of the intact model's accuracy reaches chance, there is "
    "nothing that a layer could take away, and nothing is said about layers."
)

_MODEL = {
    "n_layers": "layers",
    "n_heads": "heads per layer",
    "d_model": "width of the residual stream",
    "d_vocab": "tokens in the vocabulary",
    "n_ctx": "longest context (tokens)",
    "n_parameters": "parameters",
    "dtype": "number format",
    "parity": "largest difference from the original (nats)",
    "hash": "SHA-256 of the loaded weights",
    "source_hash": "SHA-256 of the source",
    "conversion_hash": "SHA-256 of the conversion",
}


def sections(run: Run) -> list[Section]:
    """The parts of a run's page that there is something to show in."""
    role, accuracy, compare, lens, tuned, settled, patching, ranges, removal = (
        tuple(draw(run))
        for draw in (
            _drawings.role_maps, _drawings.accuracies, _drawings.comparisons, _drawings.lenses,
            _drawings.tunings, _drawings.settlings, _drawings.patchings, _drawings.ranges,
            _drawings.removals,
        )
    )  # fmt: skip
    heads = tuple(_drawings.head_scores(run))
    direct = tuple(_drawings.attributions(run))
    effects = (*effects_tables(run), *signal_table(run, True))
    depths = tuple(emergence_tables(run))
    alike = (*_drawings.similarities(run), *_drawings.predictions(run))
    alike_tables = tuple(similarity_tables(run))
    every = [
        Section("roles", "Role map", _ROLE_WORDS, role, (), layer_grid(run)),
        Section("accuracy", "Accuracy per layer", "", accuracy),
        Section("head-effects", "Ablation of heads", _HEAD_WORDS,
                tuple(_drawings.head_effects(run)), tuple(head_effects_tables(run))),
        Section("sets", "Ablation of blocks and sets", _SET_WORDS,
                tuple(_draw_sets.set_effects(run))),
        Section("protocols", "Protocol comparison", _PROTOCOL_WORDS, compare),
        Section("interaction", "Protocols and groups of layers", _INTERACTION_WORDS,
                tuple(_draw_emergence.interactions(run)),
                tuple(_draw_emergence.interaction_tables(run))),
        Section("lens", "Logit lens", _LENS_WORDS, lens),
        Section("tuned", "Tuned lens", _TUNED_WORDS, tuned),
        Section("settled", "Prediction depth", _SETTLED_WORDS, settled, _settled(run)),
        Section("patching", "Activation patching", _PATCHING_WORDS, patching, _patched(run)),
        Section("paths", "Direct paths", _PATH_WORDS, tuple(_drawings.paths(run)),
                tuple(paths_table(run))),
        Section("estimates", "Estimated patches", _ESTIMATE_WORDS, tuple(_drawings.estimates(run)),
                tuple(agreement_shown(run))),
        Section("attribution", "Direct logit attribution", _ATTRIBUTION_WORDS, direct,
                tuple(attribution_tables(run))),
        Section("heads", "Induction heads", _HEADS_WORDS, heads, tuple(heads_table(run))),
        Section("emergence", "Where capabilities emerge", _EMERGENCE_WORDS, ranges, depths),
        Section("agreement", "Agreement of methods", _AGREEMENT_WORDS,
                tuple(_draw_emergence.agreements(run)),
                tuple(_draw_emergence.agreement_tables(run))),
        Section("similarity", "Similarity of layers", _SIMILARITY_WORDS, alike, alike_tables),
        Section("removal", "Removal of layers", _REMOVAL_WORDS, removal, _removed(run)),
        Section("pruned", "Written without layers", _PRUNED_WORDS, (), tuple(pruning_table(run))),
        Section("effects", "Effects in numbers", "", (), effects),
        Section("silent", "No signal", _SILENT_WORDS, (), tuple(signal_table(run, False))),
    ]  # fmt: skip
    return [part for part in every if part.drawings or part.tables]


def _settled(run: Run) -> tuple[Table, ...]:
    return tuple(settling_tables(run))


def _patched(run: Run) -> tuple[Table, ...]:
    return tuple(patching_table(run))


def _removed(run: Run) -> tuple[Table, ...]:
    return tuple(removal_table(run))


def facts_tables(run: Run) -> list[Table]:
    """What is needed to repeat the run: model, tasks, settings, versions, work done."""
    facts = run.facts
    named = ("fact", "value")
    model = [
        [_MODEL.get(name, name), _value(value)]
        for name, value in facts.model.model_dump().items()
        if value != ""  # older versions did not say
    ]
    general = [["seed", str(facts.seed)], ["protocols", ", ".join(facts.protocols)]]
    settings = [[_words(name), _value(value)] for name, value in facts.settings.items()]
    versions = [[name, version] for name, version in facts.versions.items()]
    return [
        Table("Model", named, model),
        _tasks(run),
        Table("Settings", named, general + settings),
        Table("Versions", named, versions, True),
        *_work(facts.work),
    ]


def _tasks(run: Run) -> Table:
    columns = ("task", "capability", "items", "few-shot", "chance (%)", "source", "hash", "what")
    cells = [
        [
            task.name, task.capability, str(task.n_items), str(task.n_fewshot),
            ", ".join(f"{name}: {number(100 * level)}" for name, level in task.chance.items()),
            task.source, task.hash[:12], task.description,
        ]
        for task in run.facts.tasks
    ]  # fmt: skip
    return Table("Tasks", columns, cells)


def _work(work: tuple[dict[str, Any], ...]) -> list[Table]:
    columns = tuple(dict.fromkeys(name for entry in work for name in entry))
    cells = [[_value(entry.get(name, "–")) for name in columns] for entry in work]
    heads = tuple(_words(name) for name in columns)
    return [Table("Work done and time taken", heads, cells)] if cells else []


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
