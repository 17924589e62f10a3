"""Orders of removal, of one stack and of two: brute force, plain rules and planted answers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings

import layerwise as lw
from analyses.validity.wired_truth_seq2seq import spared
from layerwise.analyses.removal.orders import from_the_end, neighbouring_blocks
from layerwise.errors import UserError
from layerwise.ground.layer_names import removable
from layerwise.models import load_model
from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.results import RemovalResult, SimilarityResult
from layerwise.runs.setup import prepare
from layerwise.sweep import intact, skip_layers
from layerwise.tasks import Task, score
from tests import commands
from tests.analysis import decided_by_layers, documented_columns, word_task
from tests.cases import LONG
from tests.models.seq2seq.tiny import tiny_folder
from tests.models.tiny import tiny_model
from tests.planted import CAPABILITIES, small_task
from tests.planted_seq2seq import seq2seq_layouts, small_seq2seq

CHANCE = dict.fromkeys(("letter", "continuation", "generate"), 0.0)  # so that all have signal
LAYOUT = WiredSeq2SeqLayout()
SELECTION, HELD_OUT = "selection", "held out"
N_LAYERS, N_ITEMS = 5, 24
SIZES = {"llama": {"num_hidden_layers": N_LAYERS}, "gpt2": {"n_layer": N_LAYERS}}


@cache
def case_model(case: str) -> Any:
    return tiny_model(case, **SIZES[case]) if case in SIZES else load_model(tiny_folder(case))


@cache
def case_task(case: str, n_items: int = 16, protocol: str = "continuation") -> Task:
    """Questions whose answer is what the intact model prefers, and not without any layer."""
    if protocol == "generate":
        return with_written_answers(case_model(case), word_task(N_ITEMS, chance=CHANCE))
    task = word_task(10 * max(n_items, N_ITEMS * (case in SIZES)), chance=CHANCE)
    return decided_by_layers(case_model(case), task, n_items, protocol)


def with_written_answers(model, task):
    """The same questions, with what the model writes as the answer."""
    table = lw.ablate(model, task, "generate", layers=[0], progress=False).records
    written = table.loc[table["kind"] == "intact"].set_index("item")["extracted"]
    said = written.where(written.notna() & written.ne(""), "nothing")
    items = [replace(item, aliases=(said[item.id],)) for item in task.items]
    return replace(task, items=tuple(items))


def split_items_of(result, split, name="words") -> set[str]:
    table = result.removal
    return set(table.loc[(table["split"] == split) & (table["task"] == name), "item"])


def scores(
    model: Any, task: Task, protocol: str, items: list, layers: tuple[int, ...]
) -> tuple[int, float]:
    """Right answers and the sum of gold log-probabilities without some layers, by brute force."""
    setup = prepare(model, task, protocol)
    asked = [setup.requests(task, item, protocol) for item in items]
    change = skip_layers(layers) if layers else intact()
    flat = [one.request for requests in asked for one in requests]
    outcomes = iter(setup.sweep([change], flat, "reference").outcomes[0])
    found = [
        score(task, item, protocol, requests, [next(outcomes) for _ in requests])
        for item, requests in zip(items, asked, strict=True)
    ]
    return sum(one.correct for one in found), sum(one.gold_logprob or 0.0 for one in found)


def stack_layers(case: str) -> list[range]:
    """The layers of each stack."""
    cfg = case_model(case).cfg
    n_encoder = getattr(cfg, "n_encoder_layers", 0)
    return [stack for stack in (range(n_encoder), range(n_encoder, cfg.n_layers)) if stack]


def step_candidates(
    case: str, by: str, step: int, removed: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """The sets of layers that a step chooses from: of two stacks, one layer of each must stay."""
    stacks = stack_layers(case)
    least = int(len(stacks) > 1)
    if by == "greedy":
        return [
            (*removed, layer) for stack in stacks for layer in stack
            if layer not in removed and len(set(stack) - set(removed)) > least
        ]  # fmt: skip
    return [
        tuple(stack[i : i + step]) for stack in stacks for i in range(len(stack) - step + 1)
        if len(stack) - step >= least
    ]  # fmt: skip


BY_DAY = [("gpt2", "greedy", "letter", 2)]
CASES = [
    *((*case, 2) for case in product(SIZES, ("greedy", "block"), CHANCE)),
    *((case, by, "continuation", n) for case in ("t5", "bart")
      for by, n in (("greedy", 3), ("block", 2))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "by", "protocol", "n"),
    [pytest.param(*case, marks=[] if case in BY_DAY else pytest.mark.long) for case in CASES],
)
def test_the_order_is_that_of_brute_force(case: str, by: str, protocol: str, n: int) -> None:
    model, task = case_model(case), case_task(case, 14 if case in SIZES else 16, protocol)
    result = lw.removal_order(model, task, protocol, n_removed=n, by=by, progress=False)
    items = {split: [item for item in task.items if item.id in split_items_of(result, split)]
             for split in (SELECTION, HELD_OUT)}  # fmt: skip
    intact = {split: scores(model, task, protocol, items[split], ()) for split in items}
    assert intact[SELECTION][0] > 0
    removed: tuple[int, ...] = ()
    order, table, steps = [], result.removal, result.steps().set_index(["split", "step"])
    for step in range(1, n + 1):
        tried = step_candidates(case, by, step, removed)
        found = {layers: scores(model, task, protocol, items[SELECTION], layers)
                 for layers in tried}  # fmt: skip
        right = max(one for one, _ in found.values())
        nats = max(gold for one, gold in found.values() if one == right)
        near = [k for k, (one, gold) in found.items() if one == right and gold > nats - 1e-4]
        removed = max(near, key=lambda layers: layers[-1])
        order.append(removed)
        mine = table.loc[(table["step"] == step) & (table["split"] == SELECTION)]
        assert {tuple(layers) for layers in mine["layers"]} == set(tried)
        assert mine.groupby("intervention")["item"].nunique().eq(len(items[SELECTION])).all()
        for split, (of_intact, gold_of_intact) in intact.items():
            row, n_items = steps.loc[(split, step)], len(items[split])
            of_step, gold = scores(model, task, protocol, items[split], removed)
            assert (tuple(row["layers"]), row["n_items"]) == (removed, n_items)
            assert row["acc"] == pytest.approx(of_step / n_items)
            assert row["acc_diff"] == pytest.approx((of_intact - of_step) / n_items)
            assert row["acc_diff_low"] <= row["acc_diff"] <= row["acc_diff_high"]
            assert row["p"] <= row["p_holm"]
            if protocol != "generate":
                assert row["nats"] == pytest.approx((gold_of_intact - gold) / n_items, abs=1e-4)
    assert result.order == order
    held = table.loc[table["split"] == HELD_OUT].drop_duplicates("step")
    assert [tuple(layers) for layers in held["layers"]] == [(), *order]
    assert list(table.columns) == documented_columns("removal.parquet")
    assert list(result.steps().columns) == documented_columns("removal_steps.parquet")


@cache
def all_orders(case: str) -> RemovalResult:
    ways = ["effect", "deep", "angular", "influence"]
    return lw.removal_order(case_model(case), case_task(case), n_removed=2, by=ways, progress=False)


@pytest.mark.parametrize("case", ["t5", pytest.param("bart", marks=pytest.mark.long)])
def test_given_orders_are_those_of_the_plain_rules(case: str) -> None:
    result, task = all_orders(case), case_task(case)
    selected = set(result.removal.loc[result.removal["split"] == "selection", "item"])
    items = tuple(item for item in task.items if item.id in selected)
    read = lw.similarity(
        case_model(case), replace(task, items=items), "continuation", progress=False
    )  # fmt: skip
    stacks = stack_layers(case)
    turned = read.influence().set_index("layer")["influence"].to_dict()
    assert result.orders["influence", "continuation"] == two_least(turned, stacks)
    across = {(r.layer, r.n_layers): r.distance for r in read.angular().itertuples()}
    least = [
        min(
            (tuple(range(at, at + n)) for at, size in across if size == n
             and all(set(stack) - set(range(at, at + n)) for stack in stacks)),
            key=lambda block: across[block[0], len(block)],
        )
        for n in (1, 2)
    ]  # fmt: skip
    assert result.orders["angular", "continuation"] == least
    alone = result.candidates().query("by == 'effect' and step == 1")
    cost = {r.layers[0]: (r.share_lost, r.nats) for r in alone.itertuples()}
    assert set(cost) == set(stacks[0]) | set(stacks[1])
    assert result.orders["effect", "continuation"] == two_least(cost, stacks)
    deep = {"t5": [(4,), (4, 2)], "bart": [(4,), (4, 1)]}  # 3 + 2 layers, 2 + 3 layers
    assert result.orders["deep", "continuation"] == deep[case]


def two_least(values: dict[int, Any], stacks: list[range]) -> list[tuple[int, ...]]:
    """The two least, one after the other, one layer of each stack left."""
    order: list[int] = []
    for _ in range(2):
        left = [set(stack) - set(order) for stack in stacks]
        can_go = [layer for layers in left if len(layers) > 1 for layer in layers]
        order.append(min(can_go, key=lambda layer: values[layer]))
    return [tuple(order[:1]), tuple(order)]


def test_both_stacks_shrink_alike_from_their_ends() -> None:
    assert from_the_end(4, 0, 6)[-1] == (5, 4, 3, 2)
    assert from_the_end(4, 3, 6)[-1] == (5, 2, 4, 1)
    # Of 2 encoder and 4 decoder layers: half of the encoder goes with half of the decoder.
    assert from_the_end(4, 2, 6)[-1] == (5, 1, 4, 3)
    for one, other in pairwise(from_the_end(9, 8, 14)):
        assert other[:-1] == one


def test_no_block_is_in_two_stacks_and_none_is_a_whole_stack() -> None:
    assert neighbouring_blocks(2, 3, 5) == [(0, 1), (1, 2)]
    assert neighbouring_blocks(1, 1, 3) == [(1,), (2,)]
    assert neighbouring_blocks(2, 0, 3) == [(0, 1), (1, 2)]
    assert removable((0, 1), 3, 5) == [3, 4]


# Without layers this one guesses so well that two hops are told from luck by 16 items, not by 12.
@pytest.mark.long
@example(
    replace(
        LAYOUT, n_encoder_layers=5, n_decoder_layers=4, encoder_heads=1, decoder_heads=3,
        previous=Spot(1, 0), look_up=Spot(2, 0), facts=Spot(0, 0), second_hop=Spot(4, 0),
        begin=Spot(5, 0), copy=Spot(6, 2), say=7,
    )
)  # fmt: skip
@settings(
    max_examples=20, deadline=None, phases=(Phase.explicit, *[Phase.generate] * LONG)
)  # fmt: skip
@given(seq2seq_layouts())
def test_layers_that_nothing_needs_are_removed_first(layout: WiredSeq2SeqLayout) -> None:
    idle, n = spared(layout, *CAPABILITIES), len(spared(layout, *CAPABILITIES))
    tasks, ways = [small_task(name, 48) for name in CAPABILITIES], ("greedy", "effect", "influence")
    if not n:
        return
    result = lw.removal_order(
        small_seq2seq(layout), tasks, n_removed=n, by=ways, progress=False
    )  # fmt: skip
    assert {way: result.orders[way, "continuation"][-1] for way in ways} == dict.fromkeys(
        ways, tuple(idle)
    )
    assert (result.steps()["acc"] == 1).all()


@pytest.mark.parametrize(
    ("n", "by", "says"),
    [
        (4, "greedy", "to remove is 4; expected 1 to 3, because the model has 5 layers and one of"),
        (0, "deep", "The number of layers to remove is 0; expected 1 to 3"),
        (
            3,
            "block",
            "expected 1 to 2, because the model has 5 layers, blocks of 'block' are within",
        ),
        (3, "angular", "expected 1 to 2, .* blocks of 'angular' are within one stack and one of"),
    ],
)
def test_more_than_can_go_is_refused(n: int, by: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        lw.removal_order(case_model("t5"), case_task("t5"), n_removed=n, by=by, progress=False)


@pytest.mark.long
def test_the_command_names_layers_by_their_stack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["remove", "wired-seq2seq", "--task", "wired-lookup", "--out", "run", "--layers"]
    text = commands.run_cleanly(*command, 2, "--limit", 16, "--by", "deep")
    assert "times fewer token-passes through a layer than one forward per candidate" in text
    commands.run_cleanly("report", "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Removal of layers</h2>" in page
    for shown in (text, page):
        assert "decoder.5" in shown
    says = "expected 1 to 12, because the model has 14 layers and one of each stack must stay."
    commands.assert_command_refused(*command, 13, says=says, unchanged=tmp_path)


@pytest.mark.long  # by day it is planned in test_planning and made in test_every_analysis
def test_a_profile_adds_orders_and_similarity() -> None:
    """Of 2 encoder and 3 decoder layers: no block can be longer than 2."""
    found = lw.profile(
        case_model("bart"), case_task("bart", 24), "continuation", also=["removal", "similarity"],
        progress=False,
    )  # fmt: skip
    (removal,) = [one for one in found.results if isinstance(one, RemovalResult)]
    assert {len(order) for order in removal.orders.values()} == {2}
    (similar,) = [one for one in found.results if isinstance(one, SimilarityResult)]
    assert similar.influence()["layer"].tolist() == [0, 1, 2, 3, 4]
