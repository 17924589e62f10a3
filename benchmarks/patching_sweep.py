"""Activation patching: one sweep against TransformerLens's ``patching`` module.

One pair of prompts of the suite ``kv-words``, whose contexts differ in two values: the answer's
and another one's, exchanged. Patched are positions from the first changed token to the last
token, since before it both runs are the same; what is measured is the difference of the two
answers' logits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from machine import machine
from measuring import Cost, markdown, spread, time_and_report
from same_work import refuse_error
from transformer_lens import patching

from layerwise.models import load_model, original_tokenizer
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.sweep import Intervention, LogLikelihood, SweepStats, patch, sweep
from layerwise.sweep.checks.rounding import FLOOR, measure_rounding
from layerwise.tasks import Item, PatchingPrompts, load_task, patching_prompts

BY_TRANSFORMER_LENS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "z": patching.get_act_patch_attn_head_out_by_pos,
}


@dataclass(frozen=True, order=True)
class Cell:
    """One patch; ``head`` is None but for site ``z``."""

    layer: int
    pos: int
    head: int | None = None

    def change(self, site: str) -> Intervention:
        """The intervention that patches it."""
        if self.head is None:
            return patch(site, self.layer, self.pos)  # type: ignore[arg-type]
        return patch(site, self.layer, self.pos, head=self.head)  # type: ignore[arg-type]


Grid = dict[str, dict[Cell, float]]  # by site and cell, the answers' logit difference in nats


@dataclass(frozen=True)
class Row:
    """One comparison."""

    sites: str
    cells: int
    engine: Cost
    hooks: Cost


def exchange(item: Item) -> Item:
    """An item whose corruption exchanges the answer with the next value in its context."""
    values = [pair.rsplit(" is ", 1)[1] for pair in item.context.split(", ")]
    other = values[(values.index(item.answer) + 1) % len(values)]
    swap = {item.answer: other, other: item.answer}
    pairs = [pair.rsplit(" is ", 1) for pair in item.context.split(", ")]
    context = ", ".join(f"{key} is {swap.get(value, value)}" for key, value in pairs)
    assert item.corruption is not None
    changed = replace(item.corruption, question=item.question, context=context, answer=other)
    return replace(item, corruption=changed)


def first_pair(model: DecoderOnly) -> PatchingPrompts:
    """The first pair of the suite that can be patched."""
    task, tokenizer = load_task("kv-words", limit=20), original_tokenizer(model)
    pairs = (patching_prompts(task, exchange(item), tokenizer) for item in task.items)
    return next(pair for pair in pairs if pair is not None and pair.problem is None)


def spaced_positions(prompts: PatchingPrompts, n: int) -> list[int]:
    """``n`` positions from the first changed token to the last token, evenly spaced."""
    both = zip(prompts.clean, prompts.corrupted, strict=True)
    first = next(pos for pos, (clean, corrupted) in enumerate(both) if clean != corrupted)
    return [first + step for step in spread(len(prompts.clean) - first, n)]


def make_cells(
    model: DecoderOnly, site: str, layers: Sequence[int], positions: Sequence[int]
) -> list[Cell]:
    heads: Sequence[int | None] = range(model.cfg.n_heads) if site == "z" else [None]
    return [Cell(layer, pos, head) for layer in layers for pos in positions for head in heads]


def both_answer_requests(prompts: PatchingPrompts) -> list[LogLikelihood]:
    """Both answers after the corrupted prompt."""
    return [
        LogLikelihood(prompts.corrupted, (answer,), prompts.clean)
        for answer in (prompts.clean_answer, prompts.corrupted_answer)
    ]


@torch.inference_mode()
def by_engine(
    model: DecoderOnly, prompts: PatchingPrompts, cells: dict[str, list[Cell]]
) -> tuple[Grid, SweepStats]:
    """All sites in one sweep."""
    asked = both_answer_requests(prompts)
    swept = sweep(model, [cell.change(site) for site in cells for cell in cells[site]], asked)
    differences = iter(clean.logprob - corrupted.logprob for clean, corrupted in swept.outcomes)
    return {site: {cell: next(differences) for cell in cells[site]} for site in cells}, swept.stats


@torch.inference_mode()
def by_hooks(
    model: DecoderOnly, prompts: PatchingPrompts, site: str, cells: Sequence[Cell]
) -> dict[Cell, float]:
    """TransformerLens's function for a site, a forward per cell, and the clean run before."""
    corrupted = torch.tensor([prompts.corrupted])
    _, clean = model.run_with_cache(torch.tensor([prompts.clean]))
    columns = ["layer", "pos", "head"] if site == "z" else ["layer", "pos"]
    index = pd.DataFrame([vars(cell) for cell in cells])[columns]

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, prompts.clean_answer] - logits[0, -1, prompts.corrupted_answer]

    found = BY_TRANSFORMER_LENS[site](
        model, corrupted, clean, difference, index_axis_names=None, index_df=index
    )
    return dict(zip(cells, found.tolist(), strict=True))


def largest_gap(
    model: DecoderOnly, prompts: PatchingPrompts, site: str,
    engine: dict[Cell, float], hooks: dict[Cell, float],
) -> float:  # fmt: skip
    """The largest difference over the cells that were patched with hooks, in nats.

    Raises:
        SystemExit: if it is ``FLOOR`` or more, and a side further from float64 than rounding
            explains.
    """
    gaps = {cell: abs(engine[cell] - value) for cell, value in hooks.items()}
    for cell in [cell for cell, gap in gaps.items() if not gap < FLOOR]:
        rounding = measure_rounding(model, cell.change(site), both_answer_requests(prompts))
        clean, corrupted = rounding.truth
        truth = clean.logprob - corrupted.logprob
        for side, found in (("the engine", engine), ("the way with hooks", hooks)):
            refuse_error(f"{site}, {cell}: {side}", abs(found[cell] - truth), rounding)
    return max(gaps.values())


@dataclass(frozen=True)
class PatchComparison:
    """Results of a comparison, and how they agree.

    Attributes:
        rows: each site alone, then all together.
        cells: cells compared.
        gap: the largest difference in nats.
        stats: of the sweep of all sites.
    """

    rows: list[Row]
    cells: int
    gap: float
    stats: SweepStats


def compare(
    model: DecoderOnly,
    prompts: PatchingPrompts,
    sites: Sequence[str],
    positions: Sequence[int],
    n_hooked: int,
) -> PatchComparison:
    """Patch every layer by the engine and ``n_hooked`` of them with hooks; scale those seconds."""
    vars(model.cfg).setdefault("device", str(model.W_E.device))  # which ``patching`` asks for
    n_layers = model.cfg.n_layers
    layers = spread(n_layers, n_hooked)
    scale = n_layers / len(layers)
    cells = {site: make_cells(model, site, range(n_layers), positions) for site in sites}
    (grid, stats), together = time_and_report(
        "engine, all sites", lambda: by_engine(model, prompts, cells)
    )
    rows, compared, gap = [], 0, 0.0
    for site in sites:
        one = {site: cells[site]}
        (alone, _), ours = time_and_report(
            f"engine, {site}", lambda one=one: by_engine(model, prompts, one)
        )
        some = make_cells(model, site, layers, positions)
        run = lambda site=site, some=some: by_hooks(model, prompts, site, some)  # noqa: E731
        hooks, theirs = time_and_report(f"hooks, {site}", run)
        gaps = [largest_gap(model, prompts, site, side[site], hooks) for side in (alone, grid)]
        gap = max(gap, *gaps)
        compared += len(hooks)
        scaled = Cost(theirs.seconds * scale, theirs.cpu_seconds * scale)
        rows.append(Row(site, len(cells[site]), ours, scaled))
    everything = sum((row.hooks for row in rows), Cost(0, 0))
    rows.append(Row("all at one go", sum(map(len, cells.values())), together, everything))
    return PatchComparison(rows, compared, gap, stats)


def table(rows: Sequence[Row], n_layers: int, n_hooked: int) -> str:
    hooks = "" if n_hooked >= n_layers else f" (from {n_hooked} of {n_layers} layers)"
    head = f"site|patches|TransformerLens, s{hooks}|engine, s|ratio|of processor time"
    return markdown(
        head,
        [
            [
                row.sites,
                f"{row.cells}",
                f"{row.hooks.seconds:.1f}",
                f"{row.engine.seconds:.2f}",
                f"{row.hooks.seconds / row.engine.seconds:.1f}",
                f"{row.hooks.cpu_seconds / row.engine.cpu_seconds:.1f}",
            ]
            for row in rows
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--layers", type=int, default=10**6, metavar="K",
        help="patch only K layers with hooks, spread over all, and scale the seconds",
    )  # fmt: skip
    parser.add_argument("--sites", default=",".join(BY_TRANSFORMER_LENS), help="separated by ,")
    parser.add_argument("--positions", type=int, default=9, help="how many (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    wanted = parser.parse_args(arguments)
    sites = wanted.sites.split(",")
    if unknown := set(sites) - set(BY_TRANSFORMER_LENS):
        parser.error(f"unknown site {unknown.pop()!r}; expected {', '.join(BY_TRANSFORMER_LENS)}")
    torch.set_num_threads(wanted.threads)
    where, model = machine(), load_model()
    prompts = first_pair(model)
    positions = spaced_positions(prompts, wanted.positions)
    compare(model, prompts, sites[:1], positions[-1:], 1)  # what is set up at first use
    found = compare(model, prompts, sites, positions, wanted.layers)
    length = len(prompts.clean)
    print(
        f"One pair of prompts of {length} tokens, {model.cfg.n_layers} layers, positions "
        f"{', '.join(map(str, positions))}.\n\n"
        f"{table(found.rows, model.cfg.n_layers, wanted.layers)}\n\n{where}\n"
        f"{found.cells} patches compared: logit differences at most {found.gap:.1e} nats apart. "
        f"All at one go: {found.stats.token_passes:,} token-passes through a block, "
        f"{found.stats.brute_force_token_passes:,} by brute force."
    )


if __name__ == "__main__":
    main()
