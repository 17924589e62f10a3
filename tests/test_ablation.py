"""Ablation against hooks written by hand, plain forwards, and models whose answer is known."""

from __future__ import annotations

import json
from itertools import product
from unittest import mock

import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.analyses.ablation.api import ablate
from layerwise.analyses.ablation.spec import resampled_from
from layerwise.errors import UserError
from layerwise.models import load_model, original_tokenizer, weights_hash
from layerwise.results import AblationResult
from layerwise.stats.effects import BASELINES, BLIND, CONTROLS, NO_LAYERS
from layerwise.sweep import Generate, LogLikelihood, noise, resample, site_noise, sweep
from layerwise.sweep.changes.edits import source_position
from layerwise.sweep.checks.reference import reference_outcome
from layerwise.tasks import GenerateSpec, build_requests, load_task, with_other_questions
from layerwise.tasks.blind import guesses
from tests import analysis
from tests.analysis import greedy_text, logprob, solved_by, word_task
from tests.models.real import smollm2
from tests.models.tiny import tiny_folder, tiny_model

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


def records_of(*args, **options) -> pd.DataFrame:
    """Records of the intact model and of changes."""
    found = ablate(*args, progress=False, **options).records
    return found.loc[~found["kind"].isin(CONTROLS)].set_index(KEY)


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
        guesser = guesses(TASK, protocol, tokenizer=original_tokenizer(model))
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
    entered = {}

    def keep(tensor, hook):
        entered["stream"] = tensor

    def put_back(tensor, hook):
        return entered["stream"]

    last = model.cfg.n_layers - 1
    hooks = [("blocks.0.hook_resid_pre", keep), (f"blocks.{last}.hook_resid_post", put_back)]
    for item in TASK.items:
        requests = build_requests(TASK, item, "continuation", tokenizer)
        gold, _, right = hooked_scores(model, requests, hooks)
        assert found.loc[item.id, "gold_logprob"] == pytest.approx(gold, abs=1e-4)
        assert found.loc[item.id, "correct"] == right


# The tests of the engine hold all kinds of edits at all sites; here each kind is tried once by day,
# and two at sites that the blocks of GPT-2 have otherwise.
BY_DAY = [
    ("llama", "zero", "z"), ("llama", "mean", "kv_group"), ("llama", "noise", "resid_mid"),
    ("gpt2", "skip", "layer"), ("gpt2", "resample", "kv_group"), ("gpt2", "mean", "attn_out"),
]  # fmt: skip


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


@any_model
@pytest.mark.parametrize("more", [{"block": 2}, {"as_one": True}, {"mean_by": "position"}])
def test_engine_and_reference_agree_on_blocks_sets_and_means_by_position(model, more):
    kind = "mean" if "mean_by" in more else "resample"
    assert_engine_agrees(model, word_task(2), PROTOCOLS, kind=kind, site="attn_out", **more)


INTACT = {}


def outcome_once(model, intervention, request, stopper):
    """The reference's own; of an intact model, which all kinds of ablation ask for, once."""
    if intervention.edits:
        return reference_outcome(model, intervention, request, stopper)
    key = (model, request)
    if key not in INTACT:
        INTACT[key] = reference_outcome(model, intervention, request, stopper)
    return INTACT[key]


def assert_engine_agrees(model, task, protocols, **options) -> None:
    fast = records_of(model, task, protocols, **options)
    with mock.patch("layerwise.sweep.checks.reference.reference_outcome", outcome_once):
        slow = records_of(model, task, protocols, **options, method="reference")
    numbers = ["gold_logprob", "margin", "early_logprob", "late_logprob"]
    pd.testing.assert_frame_equal(fast[numbers], slow[numbers], rtol=0, atol=1e-4)
    rest = [column for column in fast.columns if column not in numbers]
    pd.testing.assert_frame_equal(fast[rest], slow[rest])


def contexts_of(model, protocols) -> set[tuple[int, ...]]:
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


def hooks_by_hand(model, kind: str, site: str, layer: int, contexts):
    if site == "layer":
        kept = {}

        def keep(tensor, hook):
            kept["resid"] = tensor

        def put_back(tensor, hook):
            return kept["resid"]

        block = f"blocks.{layer}"
        return [(f"{block}.hook_resid_pre", keep), (f"{block}.hook_resid_post", put_back)]
    name = f"blocks.{layer}.hook_{site}"
    value = mean_by_hand(model, name, contexts) if kind == "mean" else torch.tensor(0.0)
    return [(name, lambda tensor, hook: value.expand_as(tensor))]


def hooked_scores(model, asked, hooks=()) -> tuple[float, float, bool]:
    """Gold log-probability, margin and correctness; of equal options the first is chosen."""
    scores = [logprob(model, r.request.context, r.request.continuation, hooks) for r in asked]
    (gold,) = [i for i, request in enumerate(asked) if request.gold]
    others = [score for i, score in enumerate(scores) if i != gold]
    return scores[gold], scores[gold] - max(others), scores.index(max(scores)) == gold


@pytest.mark.parametrize(("kind", "site"), COMBINATIONS)
def test_records_equal_hooks_written_by_hand(model, kind, site):
    records = ablate(model, TASK, kind=kind, site=site, layers=[1], progress=False).records
    hooks = hooks_by_hand(model, kind, site, 1, contexts_of(model, PROTOCOLS))
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


def test_one_head_is_taken_out_before_the_output_projection(model):
    """Against a hook on ``z``; what is sliced after the projection is another thing."""
    records = ablate(model, TASK, "continuation", kind="zero", site="z", progress=False).records
    assert set(records["head"].dropna()) == set(range(model.cfg.n_heads))

    def without_head(tensor, hook):
        tensor = tensor.clone()
        tensor[:, :, 2] = 0
        return tensor

    item = TASK.items[1]
    asked = build_requests(TASK, item, "continuation", original_tokenizer(model))
    gold, *_ = hooked_scores(model, asked, [("blocks.1.attn.hook_z", without_head)])
    row = records.loc[(records["layer"] == 1) & (records["head"] == 2)].set_index("item")
    assert row.loc[item.id, "gold_logprob"] == pytest.approx(gold, abs=1e-4)
    assert row.loc[item.id, "intervention"] == "zero:z,layer=1,head=2"


def test_a_group_of_heads_is_all_that_share_keys(model):
    options = {"protocols": "continuation", "kind": "mean", "layers": [1]}
    groups = records_of(model, TASK, site="kv_group", **options)
    shared = model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)
    heads = list(range(shared))
    as_set = records_of(model, TASK, site="z", heads=heads, as_one=True, **options)
    one = groups.xs("mean:kv_group,layer=1,group=0")["gold_logprob"]
    (name,) = set(as_set.index.get_level_values("intervention")) - {"intact"}
    pd.testing.assert_series_equal(one, as_set.xs(name)["gold_logprob"], rtol=0, atol=1e-5)


def test_resampling_takes_another_items_prompt(model):
    """Against hooks that put the other prompt's activations in by the stated rule."""
    result = ablate(model, TASK, "continuation", kind="resample", site="attn_out", progress=False)
    tokenizer = original_tokenizer(model)
    prompts = {
        item.id: build_requests(TASK, item, "continuation", tokenizer) for item in TASK.items
    }
    contexts = {name: asked[0].request.context for name, asked in prompts.items()}
    name, item = "blocks.1.hook_attn_out", TASK.items[0]
    row = result.records.loc[result.records["layer"] == 1].set_index("item").loc[item.id]
    found = []
    for other in contexts.values():
        cache = model.run_with_cache(torch.tensor([other]), names_filter=name)[1][name][0]

        def put(tensor, hook, cache=cache, other=other):
            n_context = len(contexts[item.id])
            at = [source_position(p, n_context, len(other)) for p in range(tensor.shape[1])]
            return cache[at][None]

        found.append(hooked_scores(model, prompts[item.id], [(name, put)])[0])
    # One of the other items' prompts, and not its own.
    assert any(row["gold_logprob"] == pytest.approx(gold, abs=1e-4) for gold in found[1:])
    assert row["gold_logprob"] != pytest.approx(found[0], abs=1e-4)


def test_each_item_is_resampled_from_another_one_and_each_prompt_serves_once():
    items = word_task(7).items
    pairs = resampled_from(3, items, "words")
    assert all(other.id != name for name, other in pairs.items())
    assert sorted(other.id for other in pairs.values()) == sorted(pairs)
    assert resampled_from(4, items, "words") != pairs
    with pytest.raises(UserError, match="takes activations from another one; take more items"):
        resampled_from(3, items[:1], "words")


def test_a_text_under_a_change_is_scored_as_it_was_written(model):
    """The change holds at generated positions: greedy tokens are the most likely ones there."""
    tokenizer = original_tokenizer(model)
    prompts = [
        build_requests(TASK, item, "generate", tokenizer)[0].request.context for item in TASK.items
    ]
    value = site_noise(model, prompts, ["mlp_out"], seed=0)["mlp_out", 1]
    changes = [noise("mlp_out", 1, value), resample("z", 1, 0), resample("resid_mid", 0)]
    texts = [Generate(prompts[0], 5, (), prompts[1])]
    written = sweep(model, changes, texts, tokenizer=tokenizer).outcomes
    for change, (text,) in zip(changes, written, strict=True):
        again = [LogLikelihood(prompts[0], text.tokens, prompts[1])]
        ((scored,),) = sweep(model, [change], again).outcomes
        assert scored.greedy


@any_model
def test_layers_can_be_chosen(model):
    found = records_of(model, TASK, "continuation", layers=[2, 0, 2])
    assert list(dict.fromkeys(found.index.get_level_values("intervention"))) == [
        "intact",
        "skip:layer=2",
        "skip:layer=0",
    ]
    whole = records_of(model, TASK, "continuation")
    pd.testing.assert_frame_equal(found, whole.loc[found.index], rtol=0, atol=1e-5)


def rescored(model, lines) -> tuple[float, float, bool]:
    """Gold log-probability, margin and correctness of an item, from its request lines alone."""
    scores = [logprob(model, one["context_tokens"], one["continuation_tokens"]) for one in lines]
    (gold,) = [i for i, one in enumerate(lines) if one["gold"]]
    others = [score for i, score in enumerate(scores) if i != gold]
    return scores[gold], scores[gold] - max(others), scores.index(max(scores)) == gold


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
            gold, margin, correct = rescored(model, mine)
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
    assert sorted(path.name for path in folder.iterdir()) == [
        "dissociations.parquet",
        "effects.parquet",
        "estimates.parquet",
        "ladder.parquet",
        "ladder_steps.parquet",
        "records.parquet",
        "requests.jsonl",
        "run.json",
        "signal.parquet",
    ]


@any_model
def test_a_finished_run_is_read_and_not_made_again(model, tmp_path, monkeypatch):
    first = ablate(model, TASK, out=tmp_path / "run", progress=False)
    monkeypatch.setattr("layerwise.sweep.walk.engine_run.block_runners", None)
    again = ablate(model, TASK, out=tmp_path / "run", progress=False)
    pd.testing.assert_frame_equal(again.records, first.records)
    (loaded,) = lw.load_results(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.records, first.records)
    assert loaded.facts == first.facts


@any_model
def test_a_folder_changes_nothing(model, tmp_path):
    kept = ablate(model, TASK, out=tmp_path / "run", progress=False)
    pd.testing.assert_frame_equal(kept.records, ablate(model, TASK, progress=False).records)


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


NO_OP = 1


@pytest.fixture(scope="module")
def with_no_op(tmp_path_factory):
    """A model one of whose layers adds nothing to the residual stream."""

    def silence(weights):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"model.layers.{NO_OP}.{name}.weight"].zero_()

    root = tmp_path_factory.mktemp("no-op")
    folder = analysis.edited_folder(tiny_folder(root, "llama"), silence)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", str(root / "cache"))
        return load_model(folder)


SCORES = ["correct", "correct_norm", "gold_logprob", "margin", "generated", "extracted", "chosen",
          "correct_first", "correct_forced"]  # fmt: skip


def intact_and_without(records: pd.DataFrame, layer: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    by_item = records.set_index(["item", "protocol"])
    intact = by_item.loc[by_item["intervention"] == "intact", SCORES]
    return intact, by_item.loc[by_item["layer"] == layer, SCORES]


@pytest.mark.parametrize("method", ["engine", "reference"])
@pytest.mark.parametrize("site", ["layer", "attn_out", "mlp_out"])
def test_skipping_a_layer_that_does_nothing_changes_no_bit(with_no_op, site, method):
    result = ablate(
        with_no_op, word_task(3), site=site, layers=[NO_OP], method=method, progress=False
    )
    intact, silent = intact_and_without(result.records, NO_OP)
    if site == "layer" or method == "reference":
        pd.testing.assert_frame_equal(silent, intact, check_exact=True)
        assert (result.effects()["nats"].dropna() == 0).all()
    pd.testing.assert_frame_equal(silent, intact, rtol=0, atol=1e-5)


def test_a_layer_that_does_nothing_is_not_found_and_others_are(with_no_op):
    task = solved_by(with_no_op, word_task(60))
    result = ablate(with_no_op, task, ["letter", "continuation"], progress=False)
    # Beside other branches in one matrix product the last bit may be rounded otherwise.
    intact, silent = intact_and_without(result.records, NO_OP)
    pd.testing.assert_frame_equal(silent, intact, rtol=0, atol=1e-5)
    effects = result.effects().set_index(["protocol", "layer"])
    for protocol in ("letter", "continuation"):
        assert effects.loc[(protocol, NO_OP), "acc_diff"] == 0
        assert effects.loc[(protocol, NO_OP), "p"] == 1
        assert abs(effects.loc[(protocol, NO_OP), "nats"]) < 1e-6
    assert effects.index[effects["significant"]].tolist() == [("continuation", 0)]
    found = lw.emergence([result]).emergence
    critical = found.loc[found["measure"] == "critical set"]
    assert critical["layers"].map(list).tolist() == [[0]]


def test_nothing_is_found_in_random_weights():
    result = ablate(tiny_model("llama"), word_task(60, seed=1), progress=False)
    assert not result.signal()["signal"].any()
    effects = result.effects()
    assert len(effects) == 3 * len(PROTOCOLS)
    assert not effects["significant"].any()
    assert effects["share_lost"].isna().all()
    assert len(result.summary_rows()) == 0
    assert "No task has signal" in result._repr_html_()
    found = lw.emergence([result])
    assert len(found.emergence) == len(found.order) == 0
    assert set(found.left_out["protocol"]) == set(PROTOCOLS)


@any_model
def test_tasks_can_be_given_in_several_ways(model, tmp_path):
    path = str(analysis.write_jsonl(tmp_path / "mine.jsonl", word_task(3).items))
    by_path = records_of(model, path, "continuation", layers=[0])
    by_value = records_of(model, [load_task(path), load_task(path)], ["continuation"], layers=[0])
    pd.testing.assert_frame_equal(by_path, by_value)
    limited = records_of(model, path, "continuation", layers=[0], limit=2)
    pd.testing.assert_frame_equal(limited, by_path.loc[limited.index], rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="Two different tasks have the same name; rename one"):
        ablate(model, [word_task(3), word_task(3, seed=1)], "continuation", progress=False)


@pytest.mark.hooked_transformer
def test_weights_that_are_no_numbers_are_told():
    model = tiny_model("gpt2", seed=7)  # no other test uses this one
    model.blocks[1].mlp.W_in.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"NaN or infinite weights in blocks\.1\.mlp\.W_in"):
        ablate(model, TASK, progress=False)


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
