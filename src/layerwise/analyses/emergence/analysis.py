"""Where capabilities emerge and whether methods agree: parts of a page, and ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from layerwise.analyses.contract import Analysis
from layerwise.analyses.shared.lens_names import FEWER_RIVALS
from layerwise.ground.layer_names import COMPUTATION, DECODER, ENCODER
from layerwise.presentation.claim import ORDER
from layerwise.presentation.columns import (
    Column,
    estimated,
    named,
    numbered,
    p_column,
    plain,
    table_of,
)
from layerwise.presentation.rows import records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    layer_ranges,
    spread,
    spread_of,
    way_of_scoring,
)
from layerwise.storage.run_tables import RunTables

from .findings import AGREEMENT, findings
from .result import DEPTHS, EmergenceResult, listed

_EMERGENCE_WORDS = (
    "Half-effect depth: where half of the effect is reached. Centre of mass: the mean depth, "
    "weighted by importance; it is described and not tested. Critical set: layers with a "
    f"significant loss. By a lens no order is claimed: {FEWER_RIVALS}."
)
_INTERACTION_WORDS = (
    "Do the ways of scoring differ more in some part of the model than in another? There is one "
    "test for each capability and two protocols. It asks whether losses differ by group of "
    "layers, beyond a shift that all groups share."
)
_AGREEMENT_WORDS = (
    "Methods ask different things. Ablation asks what is needed, a lens what can be read, "
    "patching what is enough, attribution what is written. This shows how far apart their answers "
    "are, on the same items."
)


def _ranges(run: RunTables) -> Iterator[FigureSpec]:
    """The depths at which capabilities emerge, over the whole model and within its stacks."""
    from .figures import DEPTHS, emergence_ranges

    emergence = run.table("emergence")
    for name, axes, where in (
        ("emergence", (COMPUTATION,), ""),
        ("emergence_within_stacks", (ENCODER, DECODER), " within each stack alone"),
    ):
        if emergence is None or rows(emergence, axis=axes, measure=DEPTHS).empty:
            continue
        of_axis = rows(emergence, axis=axes)
        caption = (
            f"Depth at which each capability emerges{where}, by method and way of scoring. It runs "
            f"from 0 (first layer{' of the stack' * bool(where)}) to 1 (last). Lines: 95 % "
            f"intervals over items (n = {spread_of(of_axis['n_items'], 'item')}). Grey ticks: "
            "layers of the critical set."
        )
        alt = f"Points with intervals on an axis of depth{where}, by capability and method."
        yield FigureSpec(name, partial(emergence_ranges, of_axis), caption, alt)


_ORDER = (
    *plain("first", "second", "protocol", "method", "measure"),
    estimated("depth of second minus first", "difference", "", 1, 2),
    Column("layers that both may need, left out", lambda row: listed(row.get("shared"))),
    p_column("p (Holm)", "p_holm"),
)
_LEFT_OUT = plain("capability", "task", "protocol", "method", "axis", "reason")
INTERACTIONS = (
    *plain("capability"),
    Column(
        "ways of scoring",
        lambda row: f"{way_of_scoring(row['first'])}, {way_of_scoring(row['second'])}",
    ),
    Column("layers", lambda row: f"{row['group']} ({layer_ranges(row['layers'])})"),
    named("n", "n_items"),
    estimated("share lost, first (%)", "share_first", "share_first_", 100),
    estimated("second (%)", "share_second", "share_second_", 100),
    estimated("difference (points)", "difference", "", 100),
    p_column("p of interaction (Holm)", "p_holm"),
)


AGREEMENTS = (
    *plain("capability", "protocol", "first", "second", "measure"),
    named("n", "n_items"),
    numbered("depth by first", "first_depth", 1, 2),
    numbered("by second", "second_depth", 1, 2),
    estimated("difference or correlation", "estimate", "", 1, 2),
    p_column("p (Holm)", "p_holm"),
)


def sections(run: RunTables) -> list[Section]:
    """Protocols and groups of layers, depths, and agreement of methods."""
    from .figures import agreement_ranges, interaction_profiles

    profiles, differences = run.table("protocol_interaction"), run.table("method_agreement")
    figures: dict[str, tuple[FigureSpec, ...]] = {"interaction": (), "agreement": ()}
    if profiles is not None:
        groups = "; ".join(f"{row['group']}: layers {layer_ranges(row['layers'])}"
                           for row in records(profiles.drop_duplicates("group")))  # fmt: skip
        caption = (
            "Share of the above-floor accuracy that is lost when one layer is skipped, mean over a "
            f"group of layers. Groups: {groups}. Two ways of scoring are compared on the same "
            f"items (n = {spread(profiles['n_items'])}), in tasks with signal under both. Lines: "
            "bootstrap 95 % intervals over items. Filled: the profiles differ by more than the "
            "same shift in all groups (interaction, sign flips by item, Holm over all panels, "
            "p < 0.05)."
        )
        alt = "Line charts of the share lost by group of layers, one line per way of scoring."
        draw = partial(interaction_profiles, profiles)
        figures["interaction"] = (FigureSpec("protocol_interaction", draw, caption, alt),)
    if differences is not None:
        caption = (
            "Every two methods that place a capability on the same prompts and items (n = "
            f"{spread(differences['n_items'])}). First: half-effect depth by the second method "
            "minus that by the first (0: the same depth; 1: the model's whole depth). Then: "
            "Spearman's correlation, over layers, of what the two give each layer. Lines: paired "
            "95 % intervals over items. Filled: different from 0 after Holm's correction (over all "
            "differences, and over all correlations), depths by no less than is of interest."
        )
        alt = "Points with intervals: differences of depth and rank correlations between methods."
        draw = partial(agreement_ranges, differences)
        figures["agreement"] = (FigureSpec("method_agreement", draw, caption, alt),)
    interaction = table_of(
        run, "protocol_interaction", "Loss by group of layers and protocol ({n})", INTERACTIONS
    )
    depths = (
        *table_of(run, "emergence", "Depths and critical sets ({n})", DEPTHS),
        *table_of(run, "order", "Tests of order ({n})", _ORDER, by="p_holm"),
        *table_of(run, "left_out", "Left out of the depths, and why", _LEFT_OUT, collapsed=False),
    )
    methods = table_of(run, "method_agreement", "Agreement of methods ({n})", AGREEMENTS)
    return [
        Section("interaction", "Protocols and groups of layers", 25, _INTERACTION_WORDS,
                figures["interaction"], tuple(interaction)),
        Section("emergence", "Where capabilities emerge", 60, _EMERGENCE_WORDS,
                tuple(_ranges(run)), depths, kinds=(ORDER,)),
        Section("agreement", "Agreement of methods", 65, _AGREEMENT_WORDS,
                figures["agreement"], tuple(methods), kinds=(AGREEMENT,)),
    ]  # fmt: skip


ANALYSIS = Analysis("emergence", EmergenceResult, sections, findings)
