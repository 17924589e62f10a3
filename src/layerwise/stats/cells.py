"""Ablation records as matrices, one cell for each task under a protocol, with its controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from layerwise.errors import UserError
from layerwise.stats.items.clusters import Clusters, clusters_from_table

# Kinds of records beside those of changes: the model as it is, the model as it is asked other
# items' questions, what is left of it without any layer, and a guesser that does not read the
# question, which is a control of the model or is no better than chance.
INTACT, BLIND, NO_LAYERS = "intact", "blind", "no layers"
GUESSER, GUESSER_AT_CHANCE = "guesser", "guesser at chance"
CONTROLS = (BLIND, NO_LAYERS, GUESSER, GUESSER_AT_CHANCE)
BASELINES = (INTACT, *CONTROLS)
_READ = [
    "task", "capability", "protocol", "intervention", "kind", "site", "layer", "head", "layers",
    "heads", "item", "cluster", "draw", "examples", "correct", "gold_logprob", "margin",
]  # fmt: skip


class Blind(NamedTuple):
    """Answers of the same model to other items' questions."""

    right: Int[np.ndarray, " items"]  # how many of them it answered with this item's answer
    n_asked: Int[np.ndarray, " items"]  # 0 or more

    @property
    def rates(self) -> Float[np.ndarray, " items"]:
        """The share of the questions that was answered so, by item; 0 if none was asked."""
        return self.right / np.maximum(self.n_asked, 1)

    @property
    def accuracy(self) -> float:
        """Mean over the items for which a question was asked; nan if for none."""
        have = self.n_asked > 0
        return float(self.rates[have].mean()) if have.any() else np.nan


class GuesserResult(NamedTuple):
    """A guesser that does not read the question, on the same items."""

    blind: Blind  # what it got right, as if it were one other question
    rule: str  # how it guesses, in words
    is_control: bool  # true if a model must be better; false if the guesser is at chance


class Cell(NamedTuple):
    """The records of one task under one protocol, as matrices with a row per item."""

    task: str  # the task's name
    capability: str
    protocol: str
    # One row per intervention (``intervention``, ``kind``, ``site``, ``layer``, ``head``,
    # ``layers``, ``heads``), by kind, site, layer and head; the intact model is not among them.
    interventions: pd.DataFrame
    intact: Shaped[np.ndarray, " items"]  # whether the intact model was right
    # Whether the model was right under each intervention; the share of its draws in which it was,
    # where an intervention has several.
    correct: Shaped[np.ndarray, "items interventions"]
    # Gold log-probability, intact minus intervened; nan where there is none.
    nats: Float[np.ndarray, "items interventions"]
    # The same of its margin above the best distractor's.
    margins: Float[np.ndarray, "items interventions"]
    items: tuple[str, ...]  # item ids, in the order of the rows
    clusters: Clusters  # which items ask for the same thing
    # What it answered to other items' questions; None if it was not asked.
    blind: Blind | None = None
    # Whether it was right without any layer; None if it was not asked.
    no_layers: Shaped[np.ndarray, " items"] | None = None
    # What a guesser got right without the question; None if none was measured.
    guessed: GuesserResult | None = None
    # Draws of each intervention's noise or donors, over which an item's outcomes are averaged; None
    # if there is but one of each.
    n_draws: Int[np.ndarray, " interventions"] | None = None
    # The same with each draw of few-shot examples, where there are several; all else here is the
    # mean over them, and may then be neither right nor wrong.
    of_examples: tuple[Cell, ...] = ()

    @property
    def change(self) -> Float[np.ndarray, "items interventions"]:
        """Right answers of the intact model minus those when changed."""
        return self.intact[:, None].astype(float) - self.correct

    @property
    def net(self) -> Int[np.ndarray, "items interventions"]:
        """Draws in which an item is lost minus those in which it is gained."""
        draws = 1 if self.n_draws is None else self.n_draws
        return np.rint(self.change * draws * max(len(self.of_examples), 1)).astype(int)

    def select_interventions(self, chosen: Shaped[np.ndarray, " chosen"]) -> Cell:
        """The same of some of the interventions alone."""
        return self._replace(
            interventions=self.interventions.iloc[chosen].reset_index(drop=True),
            correct=self.correct[:, chosen],
            nats=self.nats[:, chosen],
            margins=self.margins[:, chosen],
            n_draws=None if self.n_draws is None else self.n_draws[chosen],
            of_examples=tuple(draw.select_interventions(chosen) for draw in self.of_examples),
        )

    def floor(self, chance: float) -> Float[np.ndarray, " items"]:
        """Accuracy left when all is lost: that without any layer, else ``chance``."""
        if self.no_layers is not None:
            return self.no_layers.astype(float)
        return np.full(len(self.intact), chance)


def layer_skips(records: pd.DataFrame) -> pd.DataFrame:
    """The records of single skipped layers, and those that they are measured by."""
    skips = (records["kind"] == "skip") & (records["site"] == "layer")
    return records.loc[skips | records["kind"].isin(BASELINES)]


def has_several_examples(records: pd.DataFrame) -> bool:
    """True if records are of several draws of few-shot examples."""
    return "examples" in records and bool((records["examples"].fillna(0) > 0).any())


def cells_by_host(
    records: pd.DataFrame, hosts: Sequence[str], models: str
) -> Iterator[dict[str, Cell]]:
    """Records of several models on the same items, by task and protocol in alphabetical order."""
    every = [
        {(cell.task, cell.protocol): cell for cell in cells(records.loc[records["host"] == host])}
        for host in hosts
    ]
    for task, protocol in sorted(set().union(*every)):
        present = [known[task, protocol] for known in every if (task, protocol) in known]
        if len(present) < len(hosts) or len({cell.items for cell in present}) > 1:
            raise UserError(
                f"The records of task {task!r} under protocol {protocol!r} are not of the same "
                f"items in {models} again."
            )
        yield dict(zip(hosts, present, strict=True))


def intact_nats(records: pd.DataFrame, cell: Cell) -> dict[str, Float[np.ndarray, " items"]]:
    """By host, gold log-probabilities of the intact model in a cell; nan where there are none."""
    chosen = (records["task"] == cell.task) & (records["protocol"] == cell.protocol)
    gold = records.loc[chosen & (records["kind"] == INTACT)].set_index("item")
    return {
        str(host): own["gold_logprob"]
        .reindex(list(cell.items))
        .to_numpy(dtype=float, na_value=np.nan)
        for host, own in gold.groupby("host")
    }


def cells(records: pd.DataFrame, *, over_examples: bool = False) -> Iterator[Cell]:
    """Records by task and protocol, in alphabetical order."""
    several = has_several_examples(records)
    if several and not over_examples:
        raise UserError(
            "These records are of several draws of few-shot examples, which only effects and "
            "signal support; expected records of one draw: run again without fewshot_seeds."
        )
    if "head" not in records:  # tables of layers alone have no such columns
        records = records.assign(head=pd.array([None] * len(records), dtype="Int64"), heads=None)
    # texts and other scores are not copied about
    read = records[[name for name in _READ if name in records]]
    for _, group in read.groupby(["task", "capability", "protocol"], sort=True):
        whole = pd.DataFrame(group)
        yield _over_examples(whole) if several else _cell(whole)


def _over_examples(whole: pd.DataFrame) -> Cell:
    """The mean over draws of few-shot examples, which all items share."""
    each = tuple(_cell(pd.DataFrame(draw)) for _, draw in whole.groupby("examples", sort=True))
    first = each[0]
    for other in each:
        changes = [list(draw.interventions["intervention"]) for draw in (first, other)]
        if other.items != first.items or changes[0] != changes[1]:
            raise _incomplete(whole)
    without = [draw.no_layers for draw in each if draw.no_layers is not None]
    blind = None
    if first.blind is not None:
        right, n_asked = np.sum([draw.blind or Blind(*np.zeros((2, len(first.items)), dtype=int))
                               for draw in each], axis=0)  # fmt: skip
        blind = Blind(right, n_asked)
    averaged = ("intact", "correct", "nats", "margins")
    return first._replace(
        **{name: np.mean([getattr(draw, name) for draw in each], axis=0) for name in averaged},
        no_layers=np.mean(without, axis=0) if len(without) == len(each) else None,
        blind=blind,
        of_examples=each,
    )


class _Rows(NamedTuple):
    """The records of a cell, numbered once, so that each control is picked from arrays."""

    table: pd.DataFrame  # the records themselves
    kind: Shaped[np.ndarray, " records"]
    correct: Bool[np.ndarray, " records"]  # whether the answer was right
    item: Int[np.ndarray, " records"]  # the number of its item among all that are named
    items: pd.Index  # the items of the cell: those that are asked, not of its controls alone
    row: Int[np.ndarray, " records"]  # the row of its item among these; -1 if it has none
    change: Int[np.ndarray, " records"]  # the number of its intervention among all that are named
    changes: pd.Index  # these interventions

    @classmethod
    def from_records(cls, table: pd.DataFrame) -> _Rows:
        """The records of one task under one protocol."""
        kind = table["kind"].to_numpy(dtype=object)
        named = table["item"].to_numpy(dtype=object)
        items = pd.Index(sorted(set(named[~np.isin(kind, CONTROLS)])))
        item, names = pd.factorize(named)
        change, changes = pd.factorize(table["intervention"].to_numpy(dtype=object))
        row, correct = items.get_indexer(pd.Index(names))[item], table["correct"]
        return cls(
            table, kind, correct.to_numpy(dtype=bool), item, items, row, change, pd.Index(changes)
        )  # fmt: skip


def _cell(whole: pd.DataFrame) -> Cell:
    task, capability, protocol = (str(whole[c].iloc[0]) for c in ("task", "capability", "protocol"))
    described = ["kind", "site", "layer", "head", "intervention"]
    read = _Rows.from_records(whole)
    items, is_change = read.items, ~np.isin(read.kind, CONTROLS)
    group, change = whole.loc[is_change], read.change[is_change]
    first = np.unique(change, return_index=True)[1]
    listed = group[[*described, "layers", "heads"]].iloc[first].sort_values(described)
    changed = listed.loc[listed["intervention"] != INTACT].reset_index(drop=True)
    # which draw a record is of; 0 where nothing is drawn
    drawn = group["draw"].fillna(0).to_numpy(dtype=int) if "draw" in group else 0 * change
    columns = pd.Index([INTACT, *changed["intervention"]]).get_indexer(read.changes)[change]
    place = drawn, read.row[is_change], columns
    shape = int(drawn.max()) + 1, len(items), len(listed)
    _check_complete(group, place, shape, len(changed))
    right = np.zeros(shape, dtype=bool)
    right[place] = read.correct[is_change]
    in_nats = np.full((2, *shape), np.nan)
    for values, name in zip(in_nats, ("gold_logprob", "margin"), strict=True):
        if name in group:
            values[place] = group[name].to_numpy(dtype=float)
    correct, scores, n_draws = right[0, :, 1:], in_nats[:, 0], None
    if len(right) > 1:  # means over the draws of each item, so that draws are no items
        there = np.zeros((len(right), 1, shape[2]), dtype=bool)
        there[drawn, 0, columns] = True
        n_draws = there.sum(axis=(0, 1))
        scores = np.where(there, in_nats, 0.0).sum(axis=1) / n_draws
        correct, n_draws = (right.sum(axis=0) / n_draws)[:, 1:], n_draws[1:]
    nats, margins = scores[:, :, :1] - scores[:, :, 1:]
    return Cell(
        task, capability, protocol, changed, right[0, :, 0], correct, nats, margins,
        tuple(map(str, items)), clusters_from_table(group, items), _blind(read, BLIND),
        _without_layers(read), _guesser_result(read), n_draws,
    )  # fmt: skip


def _guesser_result(read: _Rows) -> GuesserResult | None:
    for kind in (GUESSER, GUESSER_AT_CHANCE):
        blind = _blind(read, kind)
        if blind is not None:
            named = str(read.changes[read.change[read.kind == kind][0]])
            return GuesserResult(blind, named.removeprefix(f"{GUESSER}: "), kind == GUESSER)
    return None


def _blind(read: _Rows, kind: str) -> Blind | None:
    chosen = read.kind == kind
    if not chosen.any():
        return None
    pairs = read.item[chosen] * len(read.changes) + read.change[chosen]
    if len(np.unique(pairs)) < len(pairs):
        raise _incomplete(read.table)
    rows, correct, n = read.row[chosen], read.correct[chosen], len(read.items)
    right, times = (
        np.bincount(chosen[chosen >= 0], minlength=n) for chosen in (rows[correct], rows)
    )
    return Blind(right, times)


def _without_layers(read: _Rows) -> Bool[np.ndarray, " items"] | None:
    chosen = read.kind == NO_LAYERS
    if not chosen.any():
        return None
    rows = read.row[chosen]
    if not np.array_equal(np.sort(rows), np.arange(len(read.items))):
        raise _incomplete(read.table)
    return read.correct[chosen][np.argsort(rows)]


def _check_complete(
    group: pd.DataFrame, place: tuple[Any, Any, Any], shape: tuple[int, int, int], n_changed: int
) -> None:
    """Every item must be there once under every intervention and draw."""
    if shape[2] == n_changed:
        raise UserError(
            f"The records of {_cell_words(group)} lack the intact model: expected rows whose "
            "intervention is 'intact'; run the ablation again."
        )
    times = np.bincount(np.ravel_multi_index(place, shape), minlength=np.prod(shape))
    times = times.reshape(shape)
    if times.max() > 1 or (times.any(axis=1, keepdims=True) != times).any():
        raise _incomplete(group)


def _incomplete(group: pd.DataFrame) -> UserError:
    return UserError(
        f"The records of {_cell_words(group)} are incomplete or doubled: expected every "
        f"item once under "
        "every intervention; run the ablation again."
    )


def _cell_words(group: pd.DataFrame) -> str:
    return f"task {group['task'].iloc[0]!r} under protocol {group['protocol'].iloc[0]!r}"
