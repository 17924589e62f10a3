"""Song, Wang, Li, Yin and Liu 2025: roles of layers in retrieval, knowledge and reasoning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from layerwise.presentation.wording import few_layers
from layerwise.stats.contrasts import (
    Contrast,
    at_least_p_value,
    centre_contrast,
    layer_weights,
    share_contrast,
    unpaired_difference,
)
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.inference import joint_sign_flip_p
from layerwise.stats.items.clusters import paired_p_values
from layerwise.stats.pools import LEVEL, Pool, match_protocols
from layerwise.stats.share_tests.equivalence import no_loss_p_values

from ..verdicts.claim import (
    FULL,
    SMALL,
    ClaimTest,
    Needs,
    NoTest,
    Number,
    Outcome,
    PublishedClaim,
    Source,
    Verdict,
    benchmarks,
    hold_every_way,
    no_test,
)
from ..verdicts.depth import ONE_LAYER, all_crossings, crossing_p, needed_layers
from ..verdicts.evidence import Evidence

SMALLEST_LOSS = 0.05  # a loss of accuracy that matters, fixed beforehand
ALIKE = 0.1  # shares of the score that differ by less are alike, fixed beforehand
SHARE = "% of the score"
THIRDS: tuple[str, ...] = ("early", "middle", "deep")
_PERCENT = 100
SONG = Source(
    "Song et al. 2025",
    "Demystifying the Roles of LLM Layers in Retrieval, Knowledge, and Reasoning",
    "arXiv:2510.02091",
)
_MEASURED = (
    "Llama-3.1-8B and others, one layer removed at a time, scored by lm-evaluation-harness; no "
    "tests and no intervals."
)
_CHOOSES, _WRITES = "continuation", "generate"


def percent(label: str, contrast: Contrast) -> Number:
    """A contrast of shares in % of the score."""
    return Number.from_contrast(label, contrast, _PERCENT)


def group_shares(pool: Pool, groups: Mapping[str, Sequence[int]]) -> dict[str, Contrast]:
    """Mean share of the score that a layer of each group costs."""
    return {
        name: share_contrast(pool, layer_weights(pool.layers, layers))
        for name, layers in groups.items()
    }


def most_are_spare(evidence: Evidence) -> list[Outcome]:
    """song-1, under each way of choosing."""
    outcomes: list[Outcome] = []
    for protocol in ("letter", _CHOOSES):
        (chosen,) = evidence.cells_under(protocol)
        if not chosen:
            outcomes.append(no_test(evidence, protocol, "choosing", protocol))
            continue
        pool, n = evidence.pool(chosen), evidence.n_layers
        majority = n // 2 + 1
        no_loss = np.max(
            [no_loss_p_values(one.loss, SMALLEST_LOSS, one.clusters) for one in pool.parts], axis=0
        )
        loses = np.where(
            pool.net.sum(axis=0) > 0, paired_p_values(pool.net, pool.clusters) / 2, 1.0
        )
        first = list(range(max(2, round(n / 10))))
        more = share_contrast(pool, layer_weights(pool.layers, first, range(len(first), n)))
        p_opposite = min(at_least_p_value(loses, majority), more.p_below())
        spare, needed = (int((correct_family(p) < LEVEL).sum()) for p in (no_loss, loses))
        groups = {"first layers": first, "the others": range(len(first), n)}
        outcomes.append(
            ClaimTest(
                protocol, f"of {n} layers", f"shown to be spare; {needed} shown to cost something",
                Number("layers shown to be spare", spare, np.nan, np.nan, pool.clusters.n),
                max(at_least_p_value(no_loss, majority), more.p_above()),
                min(1.0, 2 * p_opposite),
                numbers=tuple(percent(*each) for each in group_shares(pool, groups).items()),
                unit_of_numbers=SHARE,
            )
        )  # fmt: skip
    return outcomes


def letters_and_texts(evidence: Evidence) -> list[Outcome]:
    """song-2."""
    sides = evidence.cells_under("letter", _CHOOSES)
    if not sides[0]:
        return [no_test(evidence, "", "choosing by letter and by text", "letter", _CHOOSES)]
    pools = [evidence.pool(side) for side in sides]
    names = THIRDS
    groups = dict(zip(names, evidence.thirds, strict=True))
    letter, text = (group_shares(pool, groups) for pool in pools)
    gaps = {name: letter[name].minus(text[name]) for name in names}
    # What is left beside a gap that all thirds share is the interaction.
    estimates = np.array([gaps[name].estimate for name in names])
    items = np.stack([gaps[name].moves for name in names], axis=1)
    n = len(items)
    vectors = items * np.sqrt(n) + estimates / np.sqrt(n)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    widest = max(gaps.values(), key=lambda gap: abs(gap.estimate))
    crossing = crossing_p(all_crossings(*pools), deeper=None)
    interaction = joint_sign_flip_p(vectors, seed=0)
    note = ""
    if interaction < LEVEL <= crossing:
        note = "The losses differ by third, but no layers cross: one way may only be harder."
    return [
        ClaimTest(
            "", SHARE, "more by letter than by text, where they differ most",
            percent("letter minus text", widest),
            max(interaction, crossing),
            max(gap.p_within(ALIKE) for gap in gaps.values()),
            widest.error * _PERCENT,
            tuple(percent(f"letter minus text, {name}", gaps[name]) for name in names), note,
        )
    ]  # fmt: skip


def writing_needs_depth(evidence: Evidence) -> list[Outcome]:
    """song-3."""
    sides = evidence.cells_under(_CHOOSES, _WRITES)
    if not sides[0]:
        return [no_test(evidence, "", "choosing and writing", _CHOOSES, _WRITES)]
    chooses, writes = (evidence.pool(side) for side in sides)
    names = THIRDS
    groups = dict(zip(names, evidence.thirds, strict=True))
    shares = [group_shares(pool, groups) for pool in (chooses, writes)]
    gaps = {name: shares[1][name].minus(shares[0][name]) for name in names}
    beyond = [gaps[name].minus(gaps["early"]) for name in ("middle", "deep")]
    later = [gaps["middle"], gaps["deep"]]
    least = min(later, key=lambda gap: gap.estimate)
    more = max(gap.p_above() for gap in (*later, *beyond))
    crossings = all_crossings(writes, chooses)
    crossing = crossing_p(crossings, deeper=True)
    note = ""
    if more < LEVEL <= crossing:
        note = "Writing loses more there, but no layers cross: it may only be harder."
    return [
        ClaimTest(
            "", SHARE, "more when it writes, in middle and deep layers",
            percent("writing minus choosing, the smaller of both", least),
            max(more, crossing),
            max(*(gap.p_below() for gap in later), crossing_p(crossings, deeper=False)),
            least.error * _PERCENT,
            tuple(percent(f"writing minus choosing, {name}", gaps[name]) for name in names), note,
        )
    ]  # fmt: skip


def early_half_costs_more(evidence: Evidence) -> list[Outcome]:
    """song-4, of knowledge and of retrieval."""
    capabilities = {cell.capability for cell in evidence.cells.values()}
    needed = [
        needed_layers(evidence.pool(evidence.cells_of_capability(capability)))
        for capability in sorted(capabilities)
    ]
    shared = set.intersection(*needed) if len(needed) > 1 else set()
    outcomes: list[Outcome] = []
    for capability in ("knowledge", "retrieval"):
        chosen = evidence.cells_of_capability(capability)
        if not chosen:
            outcomes.append(no_test(evidence, capability, capability))
            continue
        pool = evidence.pool(chosen)
        halves = [[layer for layer in half if layer not in shared] for half in evidence.halves]
        ways = {"all layers": evidence.halves, "without shared layers": halves}
        each = {
            name: share_contrast(pool, layer_weights(pool.layers, *way))
            for name, way in ways.items()
        }
        note = f"All capabilities need {few_layers(sorted(shared))}." if shared else ""
        effect, label = "more without an early layer than a late one", "first half minus second"
        test = hold_every_way(capability, SHARE, effect, label, each, _PERCENT, note)
        left = pool.loss[:, np.isin(pool.layers, [*halves[0], *halves[1]])]
        if not (all(halves) and left.any()):
            test = test._replace(
                estimate=percent(label, each["all layers"]), p_holds=1.0, p_opposite=1.0,
                error=np.nan, note=f"{note} Nothing is left to be placed.",
            )  # fmt: skip
        outcomes.append(test)
    return outcomes


def reasoning_is_deeper(evidence: Evidence) -> list[Outcome]:
    """song-5, against knowledge and against retrieval."""
    outcomes: list[Outcome] = []
    for other in ("knowledge", "retrieval"):
        both = [evidence.cells_of_capability(name) for name in ("reasoning", other)]
        if not all(both):
            outcomes.append(no_test(evidence, other, f"reasoning and {other}"))
            continue
        compared = match_protocols(*(evidence.pool(cells) for cells in both))
        if compared is None:
            why = f"Reasoning and {other} have signal under no way of scoring that both share."
            outcomes.append(NoTest(other, Verdict.NO_SIGNAL, why))
            continue
        reasoning, second = compared
        crossings = all_crossings(reasoning, second)
        shared = needed_layers(reasoning) & needed_layers(second)
        centres = [centre_contrast(pool, shared) for pool in compared]
        note = f"Both need {few_layers(sorted(shared))}, which are left out." if shared else ""
        if centres[0] is None or centres[1] is None:
            centres, gap, note = [], Contrast(np.nan, np.zeros(0)), f"{note} Nothing else is lost."
        else:
            gap = unpaired_difference(centres[0], centres[1])
        outcomes.append(
            ClaimTest(
                other, "layers", f"deeper than {other}, by the mean layer of what is lost",
                Number.from_contrast("reasoning minus the other", gap),
                max(gap.p_above(ONE_LAYER), crossing_p(crossings, deeper=True)),
                max(gap.p_below(-ONE_LAYER), crossing_p(crossings, deeper=False)),
                gap.error if centres else np.nan,
                tuple(Number.from_contrast(f"mean layer, {name}", centre) for name, centre in
                      zip(("reasoning", other), centres, strict=False) if centre is not None),
                note.strip(),
            )
        )  # fmt: skip
    return outcomes


def passages_protect(evidence: Evidence) -> list[Outcome]:
    """song-6."""
    books = evidence.tables.get("books", pd.DataFrame())
    if books.empty:
        asked = {task for task, _ in evidence.asked}
        if len(asked) < 2:
            return [NoTest("", Verdict.NOT_ASKED, "No task was asked with a passage.")]
        return [no_test(evidence, "", "the same questions with and without a passage")]
    outcomes: list[Outcome] = []
    for protocol, rows in books.groupby("protocol", sort=True):
        protected = rows["protected"].to_numpy(dtype=float)
        p = rows["p"].to_numpy(dtype=float) / 2
        sides = [float(min(1.0, len(rows) * np.where(sign * protected > 0, p, 1.0).min()))
                 for sign in (1, -1)]  # fmt: skip
        against = [bool((sign * protected[rows["p_table"] < LEVEL] < 0).any())
                   for sign in (1, -1)]  # fmt: skip
        sign = 1 if sides[0] <= sides[1] else -1
        most = rows.iloc[int(np.argmax(sign * np.nan_to_num(protected)))]
        ends = (_PERCENT * most["protected_run_low"], _PERCENT * most["protected_run_high"])
        outcomes.append(
            ClaimTest(
                str(protocol), "% of the answers", f"protected by the passage in layer "
                f"{int(most['layer'])}",
                Number(f"layer {int(most['layer'])}", _PERCENT * float(most["protected"]), *ends,
                       int(most["n_common"])),
                1.0 if against[0] else sides[0], 1.0 if against[1] else sides[1],
            )
        )  # fmt: skip
    return outcomes


def deep_layers_do_less(evidence: Evidence) -> list[Outcome]:
    """song-9."""
    every = list(evidence.cells.values())
    if not every:
        return [no_test(evidence, "", "the tasks")]
    pool = evidence.pool(every)
    early, _, deep = evidence.thirds
    ways = {"all layers": (early, deep), "without the first and the last": (early[1:], deep[:-1])}
    each = {
        name: share_contrast(pool, layer_weights(pool.layers, *way)) for name, way in ways.items()
    }
    effect = "more without an early layer than a deep one"
    return [hold_every_way("", SHARE, effect, "early minus deep", each, _PERCENT)]


_SMALL = ("facts", "kv-words", "arithmetic")
_FULL = benchmarks("mmlu", "hellaswag")
_BY_CAPABILITY = {
    SMALL: _SMALL,
    FULL: benchmarks("openbookqa", "kv_retrieval", "gsm8k"),
}
_SAME = "The models, the tasks and their number of items are other ones."

CLAIMS = (
    PublishedClaim(
        "song-1", SONG, "abstract",
        "By likelihood most single layers can be dropped, and only the first few are critical.",
        _MEASURED,
        "more than half of the layers are shown to cost less than 5 accuracy points, and the first "
        "tenth (two layers at least) costs more of the score than the rest",
        "more than half are shown to cost something, or the rest costs more than the first tenth",
        "It says nothing of layers that are dropped together. " + _SAME,
        Needs({SMALL: _SMALL, FULL: _FULL}, ("letter", _CHOOSES)), most_are_spare,
    ),
    PublishedClaim(
        "song-2", SONG, "first figure",
        "Choosing by letter and choosing by text give different pictures of which layers matter.",
        _MEASURED,
        "how much more is lost by letter than by text differs between thirds of the layers, and "
        "some two layers cross",
        "in each third both lose alike, within 10 % of the score",
        "Shares alone differ where one way is only harder, so a crossing of layers is asked, too. "
        + _SAME,
        Needs({SMALL: _SMALL, FULL: _FULL}, ("letter", _CHOOSES)), letters_and_texts,
    ),
    PublishedClaim(
        "song-3", SONG, "abstract",
        "Writing an answer needs middle and deep layers that choosing does not show.",
        _MEASURED,
        "writing loses more of its score than choosing in middle and in deep layers, by more than "
        "in early ones, and a deep and an early layer cross that way",
        "choosing loses more in middle and in deep layers, and layers cross that way",
        "Writing is also harder, so that a larger share alone says nothing of other layers. "
        + _SAME,
        Needs({SMALL: _SMALL, FULL: (*_FULL, *_BY_CAPABILITY[FULL][2:])}, (_CHOOSES, _WRITES)),
        writing_needs_depth,
    ),
    PublishedClaim(
        "song-4", SONG, "abstract",
        "Knowledge and retrieval sit in shallow layers.",
        _MEASURED,
        "a layer of the first half costs more than one of the second, with all layers and without "
        "those that every capability needs",
        "a layer of the second half costs more, both ways",
        "Layers that all tasks need, such as the first, would make any task shallow. " + _SAME,
        Needs(_BY_CAPABILITY, (_CHOOSES, _WRITES)), early_half_costs_more,
    ),
    PublishedClaim(
        "song-5", SONG, "abstract",
        "Reasoning relies on deeper layers.",
        _MEASURED,
        "the mean layer of what reasoning loses, without layers that both need, is more than one "
        "layer deeper, and a deep and an early layer cross that way",
        "the same with early and deep exchanged",
        "The tasks are not matched for accuracy in the paper. " + _SAME,
        Needs(_BY_CAPABILITY, (_CHOOSES, _WRITES)), reasoning_is_deeper,
    ),
    PublishedClaim(
        "song-6", SONG, "as told second-hand",
        "With a retrieved passage, removing layers costs less.",
        _MEASURED,
        "some layer loses more answers without the passage than with it, and none loses fewer",
        "some layer loses more answers with the passage, and none loses fewer",
        "The passage is given, not retrieved. It may only make the question easier. " + _SAME,
        Needs({SMALL: ("facts", "facts-open-book"), FULL: benchmarks(
            "openbookqa", "openbookqa_facts", folder="openbookqa")}, (_CHOOSES, _WRITES)),
        passages_protect,
    ),
    PublishedClaim(
        "song-9", SONG, "abstract",
        "Very deep layers do less than early ones.",
        _MEASURED,
        "early layers cost more of the score than deep ones, with all layers and without the first "
        "and the last",
        "deep layers cost more, both ways",
        "The paper does not say which layers are very deep; here it is the last third. " + _SAME,
        Needs(_BY_CAPABILITY, (_CHOOSES, _WRITES)), deep_layers_do_less,
    ),
)  # fmt: skip
