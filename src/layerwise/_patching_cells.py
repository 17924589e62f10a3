"""What is patched at one go: a site of a layer, one head of it or not, at which positions.

Positions are named by where they stand relative to what differs between the two prompts, so
that pairs can be averaged and prompts of unequal length aligned. Nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from layerwise._patching_tables import NOISING
from layerwise.sweep import Intervention, PatchSite, patch
from layerwise.tasks import PatchingPrompts

ALL = "all"
LABELS = ("first changed", "middle changed", "last changed", "next", "further", "last", ALL)
HEAD_SITES = ("z", "pattern")
# What a map of layers by heads shows where nobody asks for other positions.
HEAD_LABELS = ("last changed", "last", ALL)
# Of the tokens between the changed ones and the last, at most so many are patched.
FURTHER = 4


@dataclass(frozen=True)
class Position:
    """A position that is patched.

    Attributes:
        clean: from 0 in the clean prompt.
        corrupted: the one that stands for it in the corrupted prompt; the same where both
            prompts have as many tokens.
        label: where it stands relative to what was changed.
    """

    clean: int
    corrupted: int
    label: str


def positions_of(prompts: PatchingPrompts) -> list[Position]:
    """The positions worth patching: from the first changed token to the last of the prompt.

    Before the first changed token both runs are the same, so nothing can come back there. The
    labels are those of Meng et al. 2022 (arXiv:2202.05262, figure 2) with "changed" for
    "subject"; of further tokens a few, evenly spaced, stand for all. In prompts of unequal
    length the first and last changed tokens stand for each other, and what follows is counted
    from the end; tokens between have no counterpart and are left out.
    """
    clean, corrupted = prompts.changed
    ends, after = (len(prompts.clean), len(prompts.corrupted)), len(prompts.clean) - clean.stop
    found = []
    if min(len(clean), len(corrupted)) > 1:
        found.append(Position(clean[0], corrupted[0], "first changed"))
    if len(clean) == len(corrupted):
        found += [Position(pos, pos, "middle changed") for pos in clean[1:-1]]
    if after:
        found.append(Position(clean[-1], corrupted[-1], "last changed"))
    tail = [(ends[0] - left, ends[1] - left) for left in range(max(after, 1), 0, -1)]
    if len(tail) > 1:
        found.append(Position(*tail[0], "next"))
    step = max(1, -(-(len(tail) - 2) // FURTHER))
    found += [Position(*pair, "further") for pair in tail[1:-1][::step]]
    return [*found, Position(*tail[-1], "last")]


@dataclass(frozen=True)
class Cell:
    """One patch.

    Attributes:
        site: the site.
        layer: the layer.
        head: which head, for ``z`` and ``pattern``; None for other sites.
        label: the label of the position; ``all`` for all from the first changed token on.
        places: positions in the run that is patched, each with that in the source run.
    """

    site: str
    layer: int
    head: int | None
    label: str
    places: tuple[tuple[int, int], ...]

    def intervention(self) -> Intervention:
        """The patch as the engine takes it, from the same positions of the source run."""
        first = patch(self.site, self.layer, self.places[0][0], self.head)  # type: ignore[arg-type]
        if self.label != ALL:
            return first
        edits = tuple(
            PatchSite(self.layer, self.site, pos, self.head)  # type: ignore[arg-type]
            for pos, _ in self.places
        )
        return Intervention(f"{first.id.rsplit('=', 1)[0]}={ALL}", "patch", self.site, edits)


def cells_of(
    prompts: PatchingPrompts,
    direction: str,
    site: str,
    n_layers: int,
    n_heads: int,
    labels: Sequence[str] | None = None,
) -> Iterator[Cell]:
    """The cells of one pair and site.

    Args:
        prompts: the pair.
        direction: ``denoising`` patches the corrupted run, ``noising`` the clean one.
        site: the site.
        n_layers: all layers are patched.
        n_heads: and all heads, where the site has any.
        labels: at which positions; None for every one, of heads ``HEAD_LABELS``.
    """
    by_head = site in HEAD_SITES
    wanted = labels or (HEAD_LABELS if by_head else LABELS[:-1])
    named: list[tuple[str, list[tuple[int, int]]]] = [
        (at.label, [(at.clean, at.corrupted)]) for at in positions_of(prompts)
    ]
    clean, corrupted = prompts.changed
    if len(clean) == len(corrupted):
        every = range(clean.start, len(prompts.clean))
        named.append((ALL, [(pos, pos) for pos in every]))
    heads: Sequence[int | None] = range(n_heads) if by_head else (None,)
    for label, pairs in named:
        if label in wanted:
            places = tuple((a, b) if direction == NOISING else (b, a) for a, b in pairs)
            for layer, head in product(range(n_layers), heads):
                yield Cell(site, layer, head, label, places)
