"""Texts of every kind of figure: big enough, inside it and apart, where it holds the most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import synthetic
from conftest import MODEL_OF_TWO_STACKS, SMALL, make_run
from legible import assert_everyday_words, assert_legible
from matplotlib.figure import Figure
from synthetic import wide_plan
from test_attribution_figures import made_up_attribution as attributed
from test_books_page import passage_ablation
from test_distillation_shown import CURVE
from test_head_figures import effect_maps, patch_maps, score_maps
from test_interactions_shown import planted_interactions as interacting
from test_patching_two_stacks import two_stack_patching
from test_paths_figures import estimates, in_two_stacks, paths
from test_removal_figure import removal
from test_sets_figure import blocks
from test_transplant_shown import heads_that_move, layers_that_move

from layerwise.analyses.distillation.figures import training_curve
from layerwise.analyses.interactions.figures import interaction_triangles, shapley_values
from layerwise.analyses.patching.analysis import sections as patching_sections
from layerwise.analyses.registry import run_tables
from layerwise.analyses.transplant.figures import gap_share_by_head, gap_share_by_layer
from layerwise.presentation.naming import model_layer_names
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH
from layerwise.report import figures
from layerwise.report._layers import sections
from layerwise.results import Result
from layerwise.storage.run_tables import RunTables
from tests.cases import in_long_runs
from tests.interacting import joined_results

LONG_NAMES = tuple(f"a task with a long name {i}" for i in "abcde")
Drawn = Figure | Iterable[Figure]
Draw = Callable[[float], Drawn]


@cache
def wide(n_tasks: int, n_layers: int, *protocols: str) -> RunTables:
    """Tables of a made-up run, the least or the most that a figure has to hold."""
    named = {"protocols": protocols} if protocols else {}
    return make_run(wide_plan(n_tasks, n_layers, n_items=8, **named))


def draw_run_table(draw: Callable[..., Figure], table: str, *size: int | str) -> Draw:
    return lambda width: draw(wide(*size).tables[table], width=width)


def draw_result_table(
    draw: Callable[..., Figure], make: Callable[[], Result], table: str, **options: str
) -> Draw:
    """A figure of a result's table, with the names of its model's layers."""

    def drawn(width: float) -> Figure:
        result = make()
        with model_layer_names(result.facts.model):
            return draw(getattr(result, table)(), width=width, **options)

    return drawn


def sets(n_tasks: int, n_layers: int, width: float) -> Figure:
    plan = wide_plan(n_tasks, n_layers, n_items=12, protocols=("letter", "generate"))
    return figures.set_losses(blocks(replace(plan, silent=())).effects(), width=width)


def pairs(n_tasks: int, n_layers: int, width: float, n_encoder: int = 0) -> Iterable[Figure]:
    names = [f"{'a-task-with-a-long-name-' * 2}{seed}" for seed in range(n_tasks)]
    made = joined_results(
        *(
            interacting(n_layers, 12, {}, seed, task=task, n_encoder=n_encoder)
            for seed, task in enumerate(names)
        )
    )
    with model_layer_names(made.facts.model):
        yield interaction_triangles(made.pairs(), width=width)
        yield shapley_values(made.shapley(), "pairs", width=width)


def every_drawing_of_two_stacks(width: float) -> Iterable[Figure]:
    run = run_tables(synthetic.results(SMALL, model=MODEL_OF_TWO_STACKS))
    with model_layer_names(MODEL_OF_TWO_STACKS):
        yield from (one.draw(width=width) for part in sections(run) for one in part.drawings)


def patches_of_two_stacks(width: float) -> Iterable[Figure]:
    with model_layer_names(two_stack_patching().facts.model):
        (part, *_) = patching_sections(run_tables([two_stack_patching()]))
        yield from (one.draw(width=width) for one in part.drawings)


def agreement(width: float) -> Figure:
    made = estimates(("keys", "a task with a long name indeed", "another"))
    return figures.estimate_agreement(made.cells(), made.agreement(), width)


def curve_of_many_steps(width: float) -> Figure:
    steps = np.arange(1, 951)
    return training_curve(CURVE.sample(950, replace=True, random_state=0).assign(step=steps), width)


TWO_STACKS = partial(attributed, tasks=LONG_NAMES, n=4, two_stacks=True)
LARGE = partial(attributed, 30, 9, LONG_NAMES, n=4)
OF_RUNS = {
    "role map": (figures.role_map, "effects"),
    "accuracies": (figures.accuracy_by_layer, "effects"),
    "protocols": (figures.protocol_comparison, "effects"),
    "lens": (figures.lens_curves, "lens"),
    "patching": (figures.patching_map, "patching_summary"),
    "depths": (figures.emergence_ranges, "emergence"),
    "scoring steps": (figures.ladder, "ladder"),
}
BY_DAY: dict[str, Draw] = {
    **{name: draw_run_table(*drawn, 6, 80) for name, drawn in OF_RUNS.items()},
    "attribution": draw_result_table(figures.attribution_lines, LARGE, "summary"),
    "attribution of heads": draw_result_table(figures.attribution_heads, LARGE, "summary"),
    "attribution in two stacks": draw_result_table(
        figures.attribution_lines, TWO_STACKS, "summary"
    ),
    "attribution of cross heads": draw_result_table(
        figures.attribution_heads, TWO_STACKS, "summary", component="cross_z"
    ),
    "head scores": partial(score_maps, 30, 9),
    "head scores in two stacks": partial(score_maps, 24, 12, n_encoder=12),
    "ablated heads": partial(effect_maps, 4, 30, 9),
    "patched heads": partial(patch_maps, 30, 9, LONG_NAMES[:2]),
    "patches in two stacks": patches_of_two_stacks,
    "paths": draw_result_table(figures.path_senders, partial(paths, 30, 9, n_pairs=2), "effects"),
    "paths in two stacks": draw_result_table(
        figures.path_senders, partial(in_two_stacks, 12, 12, 12), "effects"
    ),
    "estimates": agreement,
    "sets": partial(sets, 6, 30),
    "removal": draw_result_table(
        figures.removal_curve, partial(removal, 79, "block", LONG_NAMES[:3], n=8), "steps"
    ),
    "books": lambda width: figures.book_losses(passage_ablation(30).books(), width=width),
    "interactions": partial(pairs, 4, 3),
    "interactions in two stacks": partial(pairs, 1, 14, n_encoder=3),
    "transplanted layers": draw_result_table(gap_share_by_layer, layers_that_move, "effects"),
    "transplanted heads": draw_result_table(
        gap_share_by_head, heads_that_move, "effects", direction="brings"
    ),
    "training": curve_of_many_steps,
}
# Drawn by the function of another one, with no more in it.
ALIKE = {
    "attribution of cross heads", "attribution in two stacks", "head scores in two stacks",
    "patched heads", "paths in two stacks", "interactions in two stacks", "transplanted heads",
}  # fmt: skip
IN_LONG_RUNS: dict[str, Draw] = {
    **{
        f"{name}, least": draw_run_table(*drawn, 1, 2, "letter", "generate")
        for name, drawn in OF_RUNS.items()
    },
    "attribution, least": draw_result_table(
        figures.attribution_lines, partial(attributed, 4, 2, n=4), "summary"
    ),
    "head scores, least": partial(score_maps, 2, 2),
    "head scores, most": partial(score_maps, 80, 64),
    "ablated heads, most": partial(effect_maps, 1, 80, 32),
    "patched heads, most": partial(patch_maps, 48, 40, LONG_NAMES[:1]),
    "paths, most": draw_result_table(
        figures.path_senders, partial(paths, 40, 32, n_pairs=2), "effects"
    ),
    "sets, least": partial(sets, 1, 1),
    "removal, least": draw_result_table(figures.removal_curve, partial(removal, 1, n=8), "steps"),
    "interactions, most": partial(pairs, 3, 30),
    "two stacks": every_drawing_of_two_stacks,
}


@pytest.mark.long(but=["role map-3.3", "interactions-3.3"])
@pytest.mark.parametrize(
    ("name", "width"),
    [
        # Texts get into each other's way in the narrow picture first.
        *((name, COLUMN_WIDTH) for name in BY_DAY if name not in ALIKE),
        *in_long_runs(
            *((name, COLUMN_WIDTH) for name in sorted(ALIKE)),
            *((name, FULL_WIDTH) for name in BY_DAY),
            *((name, width) for name in IN_LONG_RUNS for width in (COLUMN_WIDTH, FULL_WIDTH)),
        ),
    ],
)
def test_texts_are_readable_apart_and_in_everyday_words(name: str, width: float) -> None:
    drawn = (BY_DAY | IN_LONG_RUNS)[name](width)
    for figure in [drawn] if isinstance(drawn, Figure) else drawn:
        assert_legible(figure, width)
        assert_everyday_words(figure)


def test_the_check_of_readability_can_fail() -> None:
    for place, size in (((0.5, 0.5), 6), ((0.99, 0.5), 8), ((0.5, 0.502), 8)):
        figure = Figure(figsize=(3, 3))
        figure.text(0.5, 0.5, "one text", fontsize=8)
        figure.text(*place, "another text", fontsize=size)
        with pytest.raises(AssertionError):
            assert_legible(figure)
