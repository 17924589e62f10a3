"""Parts of a page on emergence and the agreement of methods, and the declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from layerwise.analyses.contract import Analysis
from layerwise.analyses.shared.lens_names import FEWER_RIVALS
from layerwise.ground.layer_names import COMPUTATION, DECODER, ENCODER
from layerwise.presentation.claim import ORDER
from layerwise.presentation.columns import (
    Column,
    estimate_column,
    number_column,
    p_column,
    plain,
    run_table_as_text,
    text_column,
)
from layerwise.presentation.rows import records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import (
    count_range,
    layer_ranges,
    protocol_words,
    spread,
)
from layerwise.storage.run_tables import RunTables

from .findings import AGREEMENT, findings
from .result import DEPTHS, EmergenceResult, layer_ranges_or_dash

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
            f"intervals over items (n = {count_range(of_axis['n_items'], 'item')}). Grey ticks: "
            "layers of the critical set."
        )
        alt = f"Points with intervals on an axis of depth{where}, by capability and method."
        yield FigureSpec(name, partial(emergence_ranges, of_axis), caption, alt)


_ORDER = (
    *plain("first", "second", "protocol", "method", "measure"),
    estimate_column("depth of second minus first", "difference", "", 1, 2),
    Column(
        "layers that both may need, left out", lambda row: layer_ranges_or_dash(row.get("shared"))
    ),
    p_column("p (Holm)", "p_holm"),
)
_LEFT_OUT = plain("capability", "task", "protocol", "method", "axis", "reason")
INTERACTIONS = (
    *plain("capability"),
    Column(
        "ways of scoring",
        lambda row: f"{protocol_words(row['first'])}, {protocol_words(row['second'])}",
    ),
    Column("layers", lambda row: f"{row['group']} ({layer_ranges(row['layers'])})"),
    text_column("n", "n_items"),
    estimate_column("share lost, first (%)", "share_first", "share_first_", 100),
    estimate_column("second (%)", "share_second", "share_second_", 100),
    estimate_column("difference (points)", "difference", "", 100),
    p_column("p of interaction (Holm)", "p_holm"),
)


AGREEMENTS = (
    *plain("capability", "protocol", "first", "second", "measure"),
    text_column("n", "n_items"),
    number_column("depth by first", "first_depth", 1, 2),
    number_column("by second", "second_depth", 1, 2),
    estimate_column("difference or correlation", "estimate", "", 1, 2),
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
    interaction = run_table_as_text(
        run, "protocol_interaction", "Loss by group of layers and protocol ({n})", INTERACTIONS
    )
    depths = (
        *run_table_as_text(run, "emergence", "Depths and critical sets ({n})", DEPTHS),
        *run_table_as_text(run, "order", "Tests of order ({n})", _ORDER, by="p_holm"),
        *run_table_as_text(
            run, "left_out", "Left out of the depths, and why", _LEFT_OUT, collapsed=False
        ),
    )
    methods = run_table_as_text(run, "method_agreement", "Agreement of methods ({n})", AGREEMENTS)
    return [
        Section("interaction", "Protocols and groups of layers", 25, _INTERACTION_WORDS,
                figures["interaction"], tuple(interaction)),
        Section("emergence", "Where capabilities emerge", 60, _EMERGENCE_WORDS,
                tuple(_ranges(run)), depths, kinds=(ORDER,)),
        Section("agreement", "Agreement of methods", 65, _AGREEMENT_WORDS,
                figures["agreement"], tuple(methods), kinds=(AGREEMENT,)),
    ]  # fmt: skip


ANALYSIS = Analysis("emergence", EmergenceResult, sections, findings)
