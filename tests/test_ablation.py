"""Ablation against hooks written by hand, plain forwards, and models whose answer is known."""

from __future__ import annotations

import json
from itertools import product
from unittest import mock

import pandas as pd
import pytest
import torch

from layerwise.analyses.ablation.api import ablate
from layerwise.errors import UserError
from layerwise.models import original_tokenizer, weights_hash
from layerwise.results import AblationResult
from layerwise.stats.effects import BASELINES, BLIND, CONTROLS, NO_LAYERS
from layerwise.sweep.checks.reference import reference_outcome
from layerwise.tasks import GenerateSpec, build_requests, load_task, with_other_questions
from layerwise.tasks.blind import guesser_answers
from tests import analysis
from tests.analysis import greedy_text, logprob, word_task
from tests.models.real import smollm2
from tests.models.tiny import tiny_model

PROTOCOLS = ("letter", "continuation", "generate")
KEY = ["intervention", "task", "item", "protocol"]
COMBINATIONS = [
    *product(["skip"], ["layer", "attn_out", "mlp_out"]),
    *product(["zero", "mean"], ["resid_post", "attn_out", "mlp_out"]),
]
PARTS = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "kv_group"]
MORE = [
    *product(["skip", "zero", "mean"], ["z", "kv_group"]),
    *product(["zero"], ["resid_pre", "resid_mid"]),
    *product(["resample", "noise"], PARTS),
]
TASK = word_task(3)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return tiny_model(request.param)


# What does not depend on the model's family.
any_model = pytest.mark.parametrize("model", ["llama"], indirect=True)


def ablation_records(*args, **options) -> pd.DataFrame:
    """Records of the intact model and of changes."""
    found = ablate(*args, progress=False, **options).records
    return found.loc[~found["kind"].isin(CONTROLS)].set_index(KEY)


@pytest.mark.long(but=["gpt2-reference"])
@pytest.mark.parametrize("method", ["engine", "reference"])
def test_a_record_for_every_intervention_item_and_protocol(model, method):
    result = ablate(model, TASK, method=method, progress=False)
    assert list(result.records.columns) == analysis.documented_columns("records.parquet")
    ids = ["intact", *(f"skip:layer={layer}" for layer in range(3))]
    ids.append("no layers")
    expected = list(product(ids, ["words"], [item.id for item in TASK.items], PROTOCOLS))
    for item, others in with_other_questions(TASK, TASK.items).items():
        blind = [f"blind:{number}" for number in range(1, len(others) + 1)]
        expected += product(blind, ["words"], [item], PROTOCOLS)
    for protocol in PROTOCOLS:
        guesser = guesser_answers(TASK, protocol, tokenizer=original_tokenizer(model))
        named = [f"guesser: {guesser.rule}"]
        expected += product(named, ["words"], [item.id for item in TASK.items], [protocol])
    assert sorted(result.records[KEY].itertuples(index=False, name=None)) == sorted(expected)
    intact = result.records["kind"].isin(BASELINES)
    assert result.records.loc[intact, ["site", "layer"]].isna().all(axis=None)
    layers = result.records.loc[result.records["kind"] == "skip"]
    assert (layers["intervention"] == "skip:layer=" + layers["layer"].astype(str)).all()
    assert set(layers["kind"]) == {"skip"}
    assert set(layers["site"]) == {"layer"}
    guessed = result.records["kind"].str.startswith("guesser")
    assert (
        result.records.loc[guessed, ["gold_logprob", "chosen", "generated"]].isna().all(axis=None)
    )
    result = AblationResult(result.records.loc[~guessed], result.facts)
    generated = result.records["protocol"] == "generate"
    asked = ["correct_norm", "gold_logprob", "margin", "chosen", "correct_first", "correct_forced"]
    scores = [*asked, "early_logprob", "late_logprob"]
    assert result.records.loc[generated, scores].isna().all(axis=None)
    assert result.records.loc[~generated, asked].notna().all(axis=None)
    assert result.records.loc[generated, "generated"].notna().all()
    assert result.records.loc[~generated, ["generated", "extracted"]].isna().all(axis=None)


@pytest.mark.parametrize("protocol", ["letter", "continuation"])
def test_a_blind_record_is_of_the_items_options_under_another_question(model, protocol):
    result = ablate(model, TASK, protocol, layers=[0], progress=False)
    blind = result.records.loc[result.records["kind"] == BLIND].set_index(["item", "intervention"])
    tokenizer = original_tokenizer(model)
    for item, others in with_other_questions(TASK, TASK.items).items():
        for number, other in enumerate(others, 1):
            asked = build_requests(TASK, other, protocol, tokenizer)
            assert asked[0].context.count(other.question) == 1
            own = next(one for one in TASK.items if one.id == item)
            assert (other.choices, other.answer) == (own.choices, own.answer)
            assert own.question not in asked[0].context
            found = [logprob(model, r.request.context, r.request.continuation) for r in asked]
            gold = found[own.choices.index(own.answer)]
            row = blind.loc[item, f"blind:{number}"]
            assert row["gold_logprob"] == pytest.approx(gold, abs=1e-4)
            assert row["correct"] == (found.index(max(found)) == own.choices.index(own.answer))


def test_without_layers_the_embedding_is_read_as_it_is(model):
    result = ablate(model, TASK, "continuation", layers=[0], progress=False)
    found = result.records.loc[result.records["kind"] == NO_LAYERS].set_index("item")
    tokenizer = original_tokenizer(model)
    hooks = skip_hooks(0, model.cfg.n_layers - 1)
    for item in TASK.items:
        requests = build_requests(TASK, item, "continuation", tokenizer)
        gold, _, right = hooked_scores(model, requests, hooks)
        assert found.loc[item.id, "gold_logprob"] == pytest.approx(gold, abs=1e-4)
        assert found.loc[item.id, "correct"] == right


# The tests of the engine hold all kinds of edits at all sites; here each kind is tried once by day,
# and one at a site that the blocks of GPT-2 have otherwise.
BY_DAY = [
    ("llama", "zero", "z"), ("llama", "mean", "kv_group"), ("llama", "noise", "resid_mid"),
    ("gpt2", "skip", "layer"), ("gpt2", "resample", "kv_group"),
]  # fmt: skip


@pytest.mark.long(but=["llama-zero-z", "llama-noise-resid_mid", "gpt2-skip-layer"])
@pytest.mark.parametrize(
    ("model", "kind", "site"),
    [
        pytest.param(*case, marks=[] if case in BY_DAY else pytest.mark.long)
        for model in ("llama", "gpt2")
        for case in ((model, *change) for change in COMBINATIONS + MORE)
    ],
    indirect=["model"],
)
def test_engine_and_reference_agree(model, kind, site):
    """Of what a layer's own three sites do not have, on the first and the last layer only."""
    options = {"layers": None if (kind, site) in COMBINATIONS else [0, 2]}
    if site == "z":
        options["heads"] = [1, 2]  # of different groups in LLaMA
    task = word_task(2, generate=GenerateSpec((".", "\n"), 3, "first_word"))
    # Prompts of letters are in the next test.
    assert_engine_agrees(model, task, ("continuation", "generate"), kind=kind, site=site, **options)


@pytest.mark.long(but=["more2-llama"])
@any_model
@pytest.mark.parametrize("more", [{"block": 2}, {"as_one": True}, {"mean_by": "position"}])
def test_engine_and_reference_agree_on_blocks_sets_and_means_by_position(model, more):
    kind = "mean" if "mean_by" in more else "resample"
    assert_engine_agrees(model, word_task(2), PROTOCOLS, kind=kind, site="attn_out", **more)


INTACT = {}


def cached_outcome(model, intervention, request, stopper):
    """The reference's own; of an intact model, which all kinds of ablation ask for, once."""
    if intervention.edits:
        return reference_outcome(model, intervention, request, stopper)
    key = (model, request)
    if key not in INTACT:
        INTACT[key] = reference_outcome(model, intervention, request, stopper)
    return INTACT[key]


def assert_engine_agrees(model, task, protocols, **options) -> None:
    fast = ablation_records(model, task, protocols, **options)
    with mock.patch("layerwise.sweep.checks.reference.reference_outcome", cached_outcome):
        slow = ablation_records(model, task, protocols, **options, method="reference")
    numbers = ["gold_logprob", "margin", "early_logprob", "late_logprob"]
    pd.testing.assert_frame_equal(fast[numbers], slow[numbers], rtol=0, atol=1e-4)
    rest = [column for column in fast.columns if column not in numbers]
    pd.testing.assert_frame_equal(fast[rest], slow[rest])


def request_contexts(model, protocols) -> set[tuple[int, ...]]:
    tokenizer = original_tokenizer(model)
    return {
        request.request.context
        for item in TASK.items
        for protocol in protocols
        for request in build_requests(TASK, item, protocol, tokenizer)
    }


def mean_by_hand(model, name: str, contexts) -> torch.Tensor:
    """Over positions from the second on, each distinct prefix once."""
    found = {}
    for context in contexts:
        _, cache = model.run_with_cache(torch.tensor([context]), names_filter=name)
        for pos in range(1, len(context)):
            found[context[: pos + 1]] = cache[name][0, pos]
    assert len(found) < sum(len(context) - 1 for context in contexts)  # some prefixes are shared
    return torch.stack(list(found.values())).mean(dim=0)


def skip_hooks(first: int, last: int):
    kept = {}

    def keep(tensor, hook):
        kept["resid"] = tensor

    def put_back(tensor, hook):
        return kept["resid"]

    return [(f"blocks.{first}.hook_resid_pre", keep), (f"blocks.{last}.hook_resid_post", put_back)]


def hooks_by_hand(model, kind: str, site: str, layer: int, contexts):
    if site == "layer":
        return skip_hooks(layer, layer)
    name = f"blocks.{layer}.hook_{site}"
    value = mean_by_hand(model, name, contexts) if kind == "mean" else torch.tensor(0.0)
    return [(name, lambda tensor, hook: value.expand_as(tensor))]


def hooked_scores(model, asked, hooks=()) -> tuple[float, float, bool]:
    options = [(r.request.context, r.request.continuation) for r in asked]
    return option_scores(model, options, [r.gold for r in asked], hooks)


def option_scores(model, options, is_gold, hooks=()) -> tuple[float, float, bool]:
    """Gold log-probability, margin and correctness; of equal options the first is chosen."""
    scores = [logprob(model, *option, hooks) for option in options]
    gold = is_gold.index(True)
    others = [score for i, score in enumerate(scores) if i != gold]
    return scores[gold], scores[gold] - max(others), scores.index(max(scores)) == gold


@pytest.mark.long(
    but=["skip-layer-llama", "skip-mlp_out-llama", "zero-attn_out-llama", "mean-resid_post-llama"]
)
@any_model
@pytest.mark.parametrize(("kind", "site"), COMBINATIONS)
def test_records_equal_hooks_written_by_hand(model, kind, site):
    records = ablate(model, TASK, kind=kind, site=site, layers=[1], progress=False).records
    hooks = hooks_by_hand(model, kind, site, 1, request_contexts(model, PROTOCOLS))
    changed = records.loc[records["layer"] == 1].set_index(["item", "protocol"])
    assert len(changed) == len(TASK.items) * len(PROTOCOLS)
    tokenizer = original_tokenizer(model)
    item = TASK.items[1]
    for protocol in ("letter", "continuation"):
        asked = build_requests(TASK, item, protocol, tokenizer)
        gold, margin, correct = hooked_scores(model, asked, hooks)
        row = changed.loc[item.id, protocol]
        assert row["gold_logprob"] == pytest.approx(gold, abs=1e-4)
        assert row["margin"] == pytest.approx(margin, abs=1e-4)
        assert row["correct"] == correct
    (asked,) = build_requests(TASK, item, "generate", tokenizer)
    text = greedy_text(model, asked.request.context, 4, [".", "\n"], hooks)
    assert changed.loc[(item.id, "generate"), "generated"] == text


@any_model
def test_layers_can_be_chosen(model):
    found = ablation_records(model, TASK, "continuation", layers=[2, 0, 2])
    names = list(dict.fromkeys(found.index.get_level_values("intervention")))
    assert names == ["intact", "skip:layer=2", "skip:layer=0"]
    whole = ablation_records(model, TASK, "continuation")
    pd.testing.assert_frame_equal(found, whole.loc[found.index], rtol=0, atol=1e-5)


@any_model
def test_the_request_lines_can_be_scored_again(model, tmp_path):
    result = ablate(model, TASK, layers=[1], out=tmp_path / "run", progress=False)
    lines = [
        json.loads(line)
        for line in (tmp_path / "run" / "requests.jsonl").read_text("utf-8").splitlines()
    ]
    tokenizer = original_tokenizer(model)
    for line in lines:
        text = line["context"] + (line["continuation"] or "")
        assert tokenizer(text).input_ids == line["context_tokens"] + line["continuation_tokens"]
    intact = result.records.loc[result.records["intervention"] == "intact"]
    assert len(intact) == 9
    for row in intact.itertuples():
        mine = [one for one in lines if (one["item"], one["protocol"]) == (row.item, row.protocol)]
        assert {one["task"] for one in mine} == {"words"}
        if row.protocol == "generate":
            (one,) = mine
            assert one["gold"] is True
            assert one["continuation"] is None
            text = greedy_text(model, one["context_tokens"], one["max_tokens"], one["stop"])
            assert row.generated == text
        else:
            options = [(one["context_tokens"], one["continuation_tokens"]) for one in mine]
            gold, margin, correct = option_scores(model, options, [one["gold"] for one in mine])
            assert len(mine) == 3
            assert row.gold_logprob == pytest.approx(gold, abs=1e-4)
            assert row.margin == pytest.approx(margin, abs=1e-4)
            assert row.correct == correct


@any_model
def test_a_run_says_what_is_needed_to_repeat_it(model, tmp_path):
    folder = tmp_path / "run"
    ablate(model, [TASK, word_task(2, "more", 5)], "continuation", seed=3, out=folder,
           progress=False)  # fmt: skip
    facts = json.loads((folder / "run.json").read_text())
    assert facts["model"]["hash"] == weights_hash(model)
    assert facts["model"]["n_layers"] == 3
    assert facts["model"]["parity"] < 1e-3
    tasks = {task["name"]: task for task in facts["tasks"]}
    assert tasks["words"]["hash"] == TASK.hash
    assert tasks["words"]["chance"] == dict(TASK.chance)
    assert (tasks["words"]["n_items"], tasks["more"]["n_items"]) == (3, 2)
    assert facts["protocols"] == ["continuation"]
    assert facts["seed"] == 3
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["settings"]["layers"] == [0, 1, 2]
    work = {entry["task"]: entry for entry in facts["work"]}
    for entry in work.values():
        # The trunk, and from each skipped layer on one branch; by brute force all of it.
        # Once more the trunk for other items' questions; nothing without layers.
        assert entry["block_passes"] == 3 + 2 + 1 + 3
        assert entry["brute_force_block_passes"] == 3 * 5 + 3
        assert 0 < entry["token_passes"] < entry["brute_force_token_passes"] / 2
    assert {path.stem for path in folder.iterdir()} == {"estimates", "records", "requests", "run"}


@any_model
def test_pieces_are_joined_in_order(model, monkeypatch):
    whole = ablate(model, word_task(5), progress=False).records
    monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", 2)
    pieces = ablate(model, word_task(5), progress=False).records
    order = dict.fromkeys(pieces["item"])
    assert list(order) == [item.id for item in word_task(5).items]
    key = ["intervention", "item", "protocol"]
    one, other = whole.sort_values(key), pieces.sort_values(key)
    pd.testing.assert_frame_equal(
        one.reset_index(drop=True), other.reset_index(drop=True), rtol=0, atol=1e-4
    )


@any_model
def test_tasks_can_be_given_in_several_ways(model, tmp_path):
    path = str(analysis.write_jsonl(tmp_path / "mine.jsonl", word_task(3).items))
    by_path = ablation_records(model, path, "continuation", layers=[0])
    by_value = ablation_records(
        model, [load_task(path), load_task(path)], ["continuation"], layers=[0]
    )
    pd.testing.assert_frame_equal(by_path, by_value)
    limited = ablation_records(model, path, "continuation", layers=[0], limit=2)
    pd.testing.assert_frame_equal(limited, by_path.loc[limited.index], rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"Two different tasks have the same name .*; rename one"):
        ablate(model, [word_task(3), word_task(3, seed=1)], "continuation", progress=False)


@pytest.mark.hooked_transformer
def test_weights_that_are_no_numbers_are_told():
    model = tiny_model("gpt2", seed=7)  # no other test uses this one
    model.blocks[1].mlp.W_in.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"NaN or infinite weights in blocks\.1\.mlp\.W_in"):
        ablate(model, TASK, progress=False)


@pytest.mark.long
@pytest.mark.smollm2
def test_the_real_model_needs_its_first_layer():
    model = smollm2()
    result = ablate(
        model, "facts", "continuation", layers=[0, 17], limit=10, fewshot=3, progress=False
    )
    accuracy = result.records.groupby("intervention")["correct"].mean()
    assert accuracy["intact"] >= 0.8
    assert accuracy["skip:layer=0"] < accuracy["intact"]
    effects = result.effects().set_index("layer")
    assert effects.loc[0, "nats"] > 2 > effects.loc[17, "nats"]
