"""Whether a model gets better without a layer: Neeraj 2026, and Naim et al. 2026."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from layerwise.stats.cells import Cell
from layerwise.stats.contrasts import Contrast, mean_contrast
from layerwise.stats.items.clusters import paired_p_values
from layerwise.stats.share_tests.equivalence import no_loss_p_values

from ..claim import FULL, SMALL, ClaimTest, Needs, Number, Outcome, PublishedClaim, Source, no_test
from ..evidence import Evidence

_PERCENT = 100
SMALLEST_GAIN = 0.05  # a gain of accuracy that matters, fixed beforehand
NAIM = Source("Naim et al. 2026", "TALE", "arXiv:2510.22767")
NEERAJ = Source("Neeraj 2026", "", "blog, 25 January 2026")


def _split_items(cell: Cell) -> tuple[Bool[np.ndarray, " items"], Bool[np.ndarray, " items"]]:
    """Items to choose a layer on, and the others; clusters stay together."""
    chosen_on = cell.clusters.codes % 2 == 0
    return chosen_on, ~chosen_on


def _held_out_gain(cell: Cell) -> tuple[int, Contrast, float]:
    """The layer whose removal gains most on half of the items, its gain on the others, and p."""
    chosen_on, held_out = _split_items(cell)
    best = int(np.argmin(cell.net[chosen_on].sum(axis=0)))
    layer = int(cell.interventions["layer"].iloc[best])
    clusters = cell.clusters.select_items(held_out)
    net = cell.net[held_out][:, [best]]
    p = float(paired_p_values(net, clusters)[0]) / 2 if net.sum() < 0 else 1.0
    return layer, mean_contrast(-cell.change[held_out, best], clusters), p


def better_without_a_layer(evidence: Evidence, protocol: str) -> list[Outcome]:
    """The gain of the layer chosen on half of the items, on the other half."""
    (chosen,) = evidence.cells_under(protocol)
    if not chosen:
        return [
            no_test(evidence, "", "writing" if protocol == "generate" else "choosing", protocol)
        ]
    each = {cell.task: _held_out_gain(cell) for cell in chosen}
    best = min(each, key=lambda task: (each[task][2], -each[task][1].estimate))
    layer, gain, p = each[best]
    none = [no_loss_p_values(-cell.change, SMALLEST_GAIN, cell.clusters).max() for cell in chosen]
    numbers = tuple(
        Number.from_contrast(f"{task}, without layer {at}", found, _PERCENT)
        for task, (at, found, _) in each.items()
    )
    return [
        ClaimTest(
            "", "accuracy points", f"gained in {best} without layer {layer}, on held-out items",
            Number.from_contrast(f"{best}, without layer {layer}", gain, _PERCENT),
            min(1.0, len(each) * p), float(max(none)), _PERCENT * gain.error, numbers,
        )
    ]  # fmt: skip


_HOLDS = "the layer that gains most on half of the items gains accuracy on the other half"
_OPPOSITE = "a gain of 5 points is excluded for every single layer and task"

CLAIMS = (
    PublishedClaim(
        "naim-1", NAIM, "abstract",
        "Removing a layer chosen for the task matches or improves its accuracy.",
        "Five models, nine tasks; layers are removed greedily while validation accuracy is kept.",
        _HOLDS, _OPPOSITE,
        "A single layer is removed here, and chosen on other items than it is tested on.",
        Needs({SMALL: ("facts", "kv-words", "arithmetic"), FULL: tuple(
            f"benchmark:{name}:data={{data}}/{name}" for name in ("mmlu", "openbookqa"))},
            ("continuation",)),
        lambda evidence: better_without_a_layer(evidence, "continuation"),
    ),
    PublishedClaim(
        "neeraj-2", NEERAJ, "table of layers",
        "Without one deep layer the model solves more word problems.",
        "Llama-3.1-8B, 100 items of GSM8K: 48 to 59 right without layer 28, the best of 32.",
        _HOLDS, _OPPOSITE,
        "The layer is chosen on other items than it is tested on; theirs is the best of 32.",
        Needs({SMALL: ("word-problems", "arithmetic"), FULL: (
            "benchmark:gsm8k:data={data}/gsm8k",)}, ("generate",)),
        lambda evidence: better_without_a_layer(evidence, "generate"),
    ),
)  # fmt: skip
