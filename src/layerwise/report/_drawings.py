"""Which figures a report shows of a run, with what is said beside them.

The figures are drawn elsewhere; here they get their names, captions and alternative texts.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from layerwise.analyses.logit_lens.names import DECODER_LENS, LENS_ORDER, LOGIT, TUNED_DECODER_LENS
from layerwise.ground.layer_names import COMPUTATION, DECODER, ENCODER
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    PROTOCOL_ORDER,
    capitalised,
    counted,
    doing,
    in_order,
    joined,
    spread,
)
from layerwise.report._find_removal import HOW, several_orders
from layerwise.report.run import Run

if TYPE_CHECKING:
    import pandas as pd


def role_maps(run: Run) -> list[FigureSpec]:
    """A role map for each kind and site of intervention."""
    from layerwise.analyses.emergence.figures.role_map import role_map

    found = []
    for kind, site in run.ablations():
        effects = run.effects_of(kind, site)
        action = doing(kind, site, "a layer")
        caption = (
            f"Role map for {action}. Layers run down; tasks stand side by side, grouped by "
            f"capability, with a column per protocol. Colour: share of the above-chance accuracy "
            f"lost, clipped to 0 to 1 (n = {spread(effects['n_items'])} items a column). Dot: "
            "loss significant after Holm's correction over the layers of the column (exact McNemar "
            "test, p < 0.05); triangle: significant gain. Hatched: no signal, so nothing is "
            "claimed. The intervals are in the tables below."
        )
        alt = f"Heat map of accuracy lost by {action}, layers by tasks and protocols."
        draw = partial(role_map, effects, kind, site, signal=run.signal)
        found.append(FigureSpec(f"role_map_{kind}_{site}", draw, caption, alt))
    return found


def head_effects(run: Run) -> list[FigureSpec]:
    """What single heads are needed for, a figure for each kind, site and protocol with signal."""
    from layerwise.report.figures import head_effect_maps

    found = []
    for kind, site in run.head_ablations():
        effects = run.head_effects_of(kind, site, signal=True)
        for protocol in in_order(effects["protocol"], PROTOCOL_ORDER):
            mine = rows(effects, protocol=protocol)
            noun = HEAD_WORDS[site]
            action = doing(kind, site, f"one {noun}")
            caption = (
                f"Share of the above-chance accuracy lost by {action}, layers by {noun}s, under "
                f"{protocol} (n = {spread(mine['n_items'])} items a task, tasks with signal). Red "
                "is lost, blue gained. Dot: significant after Benjamini-Hochberg correction over "
                f"the {spread(mine.groupby('task').size())} {noun}s of a task (exact McNemar test, "
                "q < 0.05). The intervals are in the table below."
            )
            alt = f"Heat maps of accuracy lost by {action}, layers by {noun}s."
            draw = partial(head_effect_maps, mine)
            found.append(FigureSpec(f"head_effects_{kind}_{site}_{protocol}", draw, caption, alt))
    return found


def accuracies(run: Run) -> list[FigureSpec]:
    """Accuracy by layer for the first kind and site of intervention."""
    from layerwise.report.figures import accuracy_by_layer

    found = []
    for kind, site in run.ablations()[:1]:
        effects = run.effects_of(kind, site)
        action = doing(kind, site, "one layer")
        caption = (
            f"Accuracy after {action}, by task; a line per protocol "
            f"({joined(in_order(effects['protocol'], PROTOCOL_ORDER))}). Dotted: the intact "
            f"model. Dashed: chance. Bands: paired bootstrap 95 % interval of the change "
            f"(n = {spread(effects['n_items'])} items). Pale lines have no signal."
        )
        alt = f"Line charts of accuracy against the layer, after {action}, one chart per task."
        draw = partial(accuracy_by_layer, effects, kind, site)
        found.append(FigureSpec(f"accuracy_{kind}_{site}", draw, caption, alt))
    return found


def comparisons(run: Run) -> list[FigureSpec]:
    """The loss under each protocol, of tasks with signal under two or more."""
    from layerwise.report.figures import protocol_comparison

    found = []
    for kind, site in run.ablations()[:1]:
        effects = run.effects_of(kind, site, signal=True)
        several = [
            task
            for task in in_order(effects["task"], ())
            if len(set(rows(effects, task=task)["protocol"])) > 1
        ]
        effects = rows(effects, task=several)
        caption = (
            f"Does the answer change with the way of scoring? Share of the above-chance accuracy "
            f"lost by {doing(kind, site, 'one layer')}, in tasks with signal under two or more "
            f"protocols (n = {spread(effects['n_items'])} items; bands: paired bootstrap 95 % "
            "intervals). Filled markers: significant after Holm's correction. Ticks at the foot: "
            "layers where a significant loss under one protocol lies above the whole interval "
            "under another."
        )
        alt = "Line charts of accuracy lost against the layer, one line per protocol."
        draw = partial(protocol_comparison, effects, kind, site)
        found += [FigureSpec(f"protocols_{kind}_{site}", draw, caption, alt)] if several else []
    return found


def lenses(run: Run) -> list[FigureSpec]:
    """Lens curves, a figure for each lens, site and protocol's prompts."""
    from layerwise.report.figures import lens_curves

    if run.lens is None:
        return []
    found = []
    table = rows(run.lens, over="prompt", pos=-1)
    for lens, site, protocol in _curves_of(table):
        mine = rows(table, lens=lens, site=site, protocol=protocol)
        after = {"resid_pre": "before each layer", "resid_mid": "after each layer's attention"}
        where = after.get(site, "after each layer")
        caption = (
            f"{capitalised(lens)} lens on {protocol} prompts: log-probability and median rank of "
            f"the answer's first token, entropy of the lens's distribution and its divergence from "
            f"the final one, {where} (n = {counted(len(set(mine['item'])), 'item')} in all). "
            "Bands: 95 % intervals over items (bootstrap; for the median, exact order "
            "statistics). The embedding (layer −1) may lie beyond the scale."
            f"{_OF_ENCODER.get(lens, '')}"
        )
        alt = f"Line charts of what the {lens} lens reads {where}, {protocol} prompts."
        draw = partial(lens_curves, mine, protocol, seed=run.facts.seed)
        named = (lens.replace(" ", "_"), site)
        marks = [name for name in named if name not in (LOGIT, "resid_post")]
        found.append(FigureSpec("_".join(["lens", *marks, protocol]), draw, caption, alt))
    return found


# What is to be known of a lens of the encoder, whose layers the decoder stands behind.
_OF_ENCODER = {
    DECODER_LENS: " It is the exact run of a model whose encoder ends behind each layer.",
    TUNED_DECODER_LENS: (
        " It is a probe: the whole decoder reads what a trained translator makes of the stream "
        "behind each encoder layer."
    ),
}


def _curves_of(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    orders = {"lens": LENS_ORDER, "site": ("resid_post",), "protocol": PROTOCOL_ORDER}
    named = [in_order(table[name], order) for name, order in orders.items()]
    there = set(zip(*(table[name] for name in orders), strict=True))
    return [combination for combination in product(*named) if combination in there]


def settlings(run: Run) -> list[FigureSpec]:
    """From which depth on right answers stay on top of the lens."""
    from layerwise.report.figures import prediction_depth_curves

    depths, means = run.prediction_depth, run.prediction_depth_means
    if depths is None or means is None:
        return []
    caption = (
        "Prediction depth (after Baldock et al. 2021, with the lens as probe): the first layer "
        "from which on the answer stays the lens's most likely token. Steps: share of the items "
        "answered right that are settled by a depth, in tasks with signal. Points: mean depth "
        f"(n = {spread(means['n_items'])} items), mean over tasks, with bootstrap 95 % intervals "
        "over items."
    )
    alt = "Cumulative shares of answers settled by depth, one line per capability."
    return [FigureSpec("prediction_depth", partial(prediction_depth_curves, depths, means),
                    caption, alt)]  # fmt: skip


def tunings(run: Run) -> list[FigureSpec]:
    """How much nearer to the final distribution the tuned lens is than the logit lens."""
    from layerwise.report.figures import tuned_lens_curves

    if run.tuned_lens_layers is None:
        return []
    table = run.tuned_lens_layers
    two_stacks = TUNED_DECODER_LENS in set(table["lens"])
    caption = (
        "KL divergence from the final distribution to that of the logit lens and of the tuned lens "
        f"({table['kind'].iloc[0]}; Belrose et al. 2023), after each layer, on n = "
        f"{spread(table['n_texts'])} texts that it was not trained on. Bands: bootstrap 95 % "
        f"intervals over texts. Filled: lower than {'without' if two_stacks else 'the logit lens'} "
        "(signed-rank test, Holm over the layers, p < 0.05)."
    )
    if two_stacks:
        caption += (
            " Of the encoder, the whole decoder reads the stream behind each layer: as it is "
            "(decoder lens, the exact run of a shorter model) or translated (a trained probe)."
        )
    alt = "Line chart of the divergence of both lenses against the layer."
    return [FigureSpec("tuned_lens", partial(tuned_lens_curves, table), caption, alt)]


def patchings(run: Run) -> list[FigureSpec]:
    """Patching heat maps, a figure for each direction and site."""
    if run.patching is None:
        return []
    found = []
    for direction in in_order(run.patching["direction"], ("denoising",)):
        mine = rows(run.patching, direction=direction)
        for site in in_order(mine["site"], ("resid_pre",)):
            table = rows(mine, site=site)
            by_head = bool(table["head"].notna().all())
            found.append((_heads_patched if by_head else _patched)(table, site, direction))
    return found


_ATTRIBUTED_HEADS = {"z": "attribution_heads", "cross_z": "attribution_cross_heads"}
_THROUGH_CROSS = (
    " The encoder's parts act through cross-attention, whose patterns are held: with its embedding "
    "and biases they are what the decoder's cross-attention adds, taken apart in another way."
)


def attributions(run: Run) -> list[FigureSpec]:
    """What layers and heads add to the answer, a figure of each for each protocol with signal."""
    from layerwise.report.figures import attribution_heads, attribution_lines

    if run.attribution is None:
        return []
    found, two = [], stacks().n_encoder > 0
    shown = rows(run.attribution, metric="logit_diff", signal=True)
    for protocol in in_order(shown["protocol"], PROTOCOL_ORDER):
        items = spread(rows(shown, protocol=protocol)["n_items"])
        where = "where the answer begins" if two else "last position"
        what = (
            f"to the answer's first token against the other choices' ({protocol} prompts, {where}, "
            f"n = {items} items a task, tasks with signal)"
        )
        lines = (
            f"What each sublayer of each layer adds directly {what}: logit difference in nats, "
            "mean over items, with bootstrap 95 % intervals. Filled markers: not 0 after Holm's "
            "correction over the layers. Layers that prepare what others write are not credited."
            f"{_THROUGH_CROSS if two else ''}"
        )
        alt = "of what each {} adds to the logit difference, one chart per task."
        draw = partial(attribution_lines, shown, protocol)
        found.append(
            FigureSpec(f"attribution_{protocol}", draw, lines, f"Line charts {alt.format('layer')}")
        )
        for component, name in _ATTRIBUTED_HEADS.items():
            if rows(shown, component=component).empty:
                continue
            head = HEAD_WORDS[component]
            grey = " Grey: no such head." if two and component == "z" else ""
            heads = (
                f"What each {head} adds directly {what}: logit difference in nats, mean over "
                "items. Dots: not 0 after Benjamini-Hochberg correction over all heads of the "
                f"task. The largest, with their intervals, are in the table below.{grey}"
                f"{_THROUGH_CROSS if two and component == 'z' else ''}"
            )
            draw = partial(attribution_heads, shown, protocol, component=component)
            found.append(
                FigureSpec(f"{name}_{protocol}", draw, heads, f"Heat maps {alt.format(head)}")
            )
    return found


_PATCHES = {
    "denoising": "the clean run's activation is put into the corrupted run",
    "noising": "the corrupted run's activation is put into the clean run",
}


def _patched(table: pd.DataFrame, site: str, direction: str) -> FigureSpec:
    from layerwise.analyses.patching.figures.patching import verb
    from layerwise.report.figures import patching_map

    caption = (
        f"Activation patching at {site}: {_PATCHES[direction]} at one layer and position "
        f"({joined(set(table['protocol']))} prompts). {_where(site)}"
        f"Colour: share of the logit difference {verb(direction)}, over n = "
        f"{spread(table['n_items'])} pairs a cell, clipped to −1 to 1; minus signs mark cells "
        "below −0.1, grey what was not patched. The intervals are in the table below."
    )
    alt = f"Heat maps of the share {verb(direction)} by patching {site}, layers by positions."
    draw = partial(patching_map, table, site, direction=direction)
    return FigureSpec(_figure_name(site, direction), draw, caption, alt)


def _heads_patched(table: pd.DataFrame, site: str, direction: str) -> FigureSpec:
    from layerwise.analyses.patching.figures.patching import verb
    from layerwise.analyses.patching.figures.patching_heads import patching_heads

    every = "of the stack" if stacks().n_encoder else "from the first changed token on"
    grey = "; grey: not patched, or no such head" if stacks().n_encoder else ""
    caption = (
        f"Activation patching of single heads at {site}: {_PATCHES[direction]}, at one position "
        f"or at all {every} ({joined(set(table['protocol']))} prompts). {_where(site)}"
        f"Colour: share of the logit difference {verb(direction)}, over n = "
        f"{spread(table['n_items'])} pairs a cell{grey}. Dot: differs from 0 by a sign-flip test "
        "over pairs, after Benjamini and Hochberg's correction over all cells of the task (5 %)."
    )
    alt = f"Heat maps of the share {verb(direction)} by patching {site}, layers by heads."
    draw = partial(patching_heads, table, site, direction)
    return FigureSpec(_figure_name(site, direction), draw, caption, alt)


def _where(site: str) -> str:
    """Which positions are meant where a model has an encoder and a decoder."""
    if not stacks().n_encoder:
        return ""
    if site in ("cross_k", "cross_v"):
        return (
            "Every decoder layer has its own, made of the encoder's output at the prompt's "
            "positions. "
        )
    return (
        "The encoder is patched at the prompt's positions, the decoder at what it begins with; "
        "answer: the position where the answer's first token is predicted. "
    )


def _figure_name(site: str, direction: str) -> str:
    return f"patching_{site}" if direction == "denoising" else f"patching_{site}_{direction}"


def similarities(run: Run) -> list[FigureSpec]:
    """Maps of similarity, a figure for each protocol's prompts."""
    from layerwise.report.figures import similarity_map

    if run.angular is None or run.influence is None or run.cka is None:
        return []
    found = []
    for protocol in in_order(run.influence["protocol"], PROTOCOL_ORDER):
        mine = rows(run.influence, protocol=protocol)
        caption = (
            f"Similarity of layers on {protocol} prompts (n = {spread(mine['n_items'])} items a "
            "task). Left: angular distance between what enters a block of layers and what leaves "
            "it, at the prompt's last position; dots: the block of each size that turns the "
            "stream least. Middle: block influence, 1 minus the cosine of what enters and what "
            "leaves a layer, mean over all positions; bands: range over the capability's tasks; "
            "values below 0.001 stand there. Right: unbiased linear CKA between depths, at the "
            "last position, over items; grey: undefined. The intervals are in the table below."
            f"{_of_two_stacks()}"
        )
        alt = f"Heat maps and curves of how similar layers are, {protocol} prompts."
        draw = partial(similarity_map, run.angular, run.influence, run.cka, protocol)
        found.append(FigureSpec(f"similarity_{protocol}", draw, caption, alt))
    return found


def _of_two_stacks() -> str:
    """What is read where in an encoder-decoder."""
    if not stacks().n_encoder:
        return ""
    return (
        " The encoder's stream is averaged over its positions, the decoder's read where the "
        "answer begins, and influence there is over what the decoder begins with. Blocks and "
        "pairs of depths are within one stack."
    )


def predictions(run: Run) -> list[FigureSpec]:
    """How well similarity ranks layers by what skipping them costs."""
    from layerwise.report.figures import prediction_ranges

    if run.prediction is None:
        return []
    caption = (
        "Spearman's rank correlation, over layers, of each measure of similarity with what "
        "skipping the layer costs: 1 where the layers that turn the stream most are those that "
        f"cost most (n = {spread(run.prediction['n_items'])} items; mean over tasks with signal). "
        "Lines: bootstrap 95 % interval over items. Filled: different from 0 after Holm's "
        "correction over all points of the effect."
        f"{' Rows of a stack: over its layers alone.' if stacks().n_encoder else ''}"
    )
    alt = "Points with intervals: rank correlation of similarity with effects of skipping layers."
    return [FigureSpec("prediction", partial(prediction_ranges, run.prediction), caption, alt)]


def head_scores(run: Run) -> list[FigureSpec]:
    """Where heads attend on repeated random tokens."""
    from layerwise.report.figures import head_score_maps

    if run.heads is None:
        return []
    chosen = len(rows(run.heads, induction_head=True))
    caption = (
        f"Mean attention on random tokens that are repeated once, over n = "
        f"{spread(run.heads['n_sequences'])} sequences: from the second occurrence of a token to "
        "the successor of the first (prefix matching, as induction heads attend), to the token "
        f"before, and to the first occurrence.{_of_each_attention()} Dots: "
        f"{counted(chosen, 'induction head')}, whose prefix matching lies above "
        f"{run.facts.settings['threshold']} with its whole 95 % interval (bootstrap over "
        "sequences)."
    )
    alt = "Heat maps of attention scores, layers by heads, one for each kind of attention."
    return [FigureSpec("head_scores", partial(head_score_maps, run.heads), caption, alt)]


def _of_each_attention() -> str:
    """Where what is repeated stands in an encoder-decoder."""
    if not stacks().n_encoder:
        return ""
    return (
        " The encoder reads the tokens twice, and there each occurrence is also asked about the "
        "other, and all tokens about the next. The decoder's self-attention is given them twice, "
        "while the encoder has read others; for cross-attention the encoder has read them once "
        "and the decoder is given them once. Grey: no such score, or no such head."
    )


def paths(run: Run) -> list[FigureSpec]:
    """Direct paths, a figure for each direction."""
    from layerwise.analyses.patching.figures.patching import verb
    from layerwise.report.figures import path_senders

    if run.paths is None:
        return []
    found, cross = [], " c0, c1, ...: heads of cross-attention." * bool(stacks().n_encoder)
    table = run.paths.loc[run.paths["layer"] >= 0]  # embeddings are in the table only
    for direction in in_order(table["direction"], ()):
        mine = rows(table, direction=direction)
        caption = (
            f"Path patching: {_PATCHES[direction]} at one head or MLP, and reaches one receiver "
            "only, on the direct path; all else is held. Colour: share of the logit difference "
            f"{verb(direction)}, over n = {spread(mine['n_items'])} pairs. Dot: differs from 0 by "
            "a sign-flip test over pairs, after Benjamini and Hochberg's correction over the "
            f"senders of the receiver (5 %). Grey: not heard by the receiver, or not there.{cross} "
            "The intervals are in the table below."
        )
        alt = "Heat maps of what each head and MLP carries to a receiver."
        found.append(FigureSpec(f"paths_{direction}", partial(path_senders, mine), caption, alt))
    return found


def estimates(run: Run) -> list[FigureSpec]:
    """Estimated against true patches, a figure for each direction."""
    from layerwise.report.figures import estimate_agreement

    if run.estimates is None or run.agreement is None:
        return []
    found = []
    for direction in in_order(run.agreement["direction"], ()):
        cells, told = (rows(t, direction=direction) for t in (run.estimates, run.agreement))
        caption = (
            f"Attribution patching ({direction}): the change of the logit difference that a "
            "gradient predicts for a patch, against that of the true patch, for cells drawn at "
            f"random (means over n = {spread(told['n_items'])} pairs). Dashed: equal. The rank "
            "correlations' intervals are in the table below."
        )
        alt = "Scatter plots of estimated against true changes, one per task and site."
        draw = partial(estimate_agreement, cells, told)
        found.append(FigureSpec(f"estimates_{direction}", draw, caption, alt))
    return found


def removals(run: Run) -> list[FigureSpec]:
    """The accuracy that is left as layers are removed."""
    from layerwise.report.figures import removal_curve

    if run.removal is None:
        return []
    if several_orders(run):
        return _orders(run)
    first = run.removal.iloc[0]
    way = HOW[str(first["by"])]
    counts = [
        f"{split} items: n = {spread(rows(run.removal, split=split)['n_items'])}"
        for split in in_order(run.removal["split"], ())
    ]
    caption = (
        f"Accuracy under {first['protocol']} as layers are removed {way}; what each step removed "
        f"stands along the upper edge ({', '.join(counts)}). The choice was made on the selection "
        "items, so their line is too good; held-out items were not seen by the search. Dotted: the "
        "intact model. Dashed: chance. Bands: paired bootstrap 95 % interval of the loss."
    )
    alt = "Line charts of accuracy against the number of layers removed, one chart per task."
    return [FigureSpec("removal", partial(removal_curve, run.removal), caption, alt)]


def _orders(run: Run) -> list[FigureSpec]:
    """All orders under all protocols in one figure."""
    from layerwise.analyses.removal.figures.removal_orders import removal_orders

    if run.removal_curves is None:
        return []
    caption = (
        "What is left of the accuracy above chance as layers are removed in different orders, by "
        "capability and protocol: 100 % is the intact model, 0 % chance; mean over the "
        f"capability's tasks with signal (n = {spread(run.removal_curves['n_items'])} held-out "
        "items, which no order was made from). Bands: paired bootstrap 95 % interval. Filled: "
        "significant loss after Holm's correction over the steps (exact McNemar test, p < 0.05)."
    )
    alt = "Line charts of accuracy left against layers removed, one chart per capability, protocol."
    draw = partial(removal_orders, run.removal_curves)
    return [FigureSpec("removal_orders", draw, caption, alt)]


def ranges(run: Run) -> list[FigureSpec]:
    """The depths at which capabilities emerge."""
    from layerwise.analyses.emergence.figures.emergence import DEPTHS
    from layerwise.report.figures import emergence_ranges

    if run.emergence is None:
        return []
    found = []
    for name, axes, where in (
        ("emergence", (COMPUTATION,), ""),
        ("emergence_within_stacks", (ENCODER, DECODER), " within each stack alone"),
    ):
        mine = rows(run.emergence, axis=axes)
        if mine.empty or not len(rows(mine, measure=DEPTHS)):
            continue
        caption = (
            f"Depth at which each capability emerges{where}, by method and protocol, from 0 "
            f"(first layer{' of the stack' * bool(where)}) to 1 (last): estimate and bootstrap "
            f"95 % interval over items (n = {spread(mine['n_items'])} items). Grey ticks: layers "
            "of the critical set."
        )
        alt = f"Points with intervals on an axis of depth{where}, by capability and method."
        found.append(FigureSpec(name, partial(emergence_ranges, mine), caption, alt))
    return found
