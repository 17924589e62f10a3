"""The logit lens against norms, unembeddings and ranks worked out by hand."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch

from layerwise.analyses.logit_lens.api import logit_lens
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.tasks import Item, build_requests, with_other_questions
from tests import analysis
from tests.analysis import word_task
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.real import smollm2
from tests.models.tiny import tiny_model, tiny_tokenizer
from tests.tasks.tokenizers import word_level

TASK = word_task(5)
CAP = 3.0
LETTERS = "ABC"
SITES = ("resid_pre", "resid_mid", "resid_post")


def handmade(tokenizer) -> HookedTransformer:
    """A model with a soft-cap on its logits and a final norm that stretches some directions."""
    config = HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=128, d_head=8, n_heads=4, d_mlp=64, d_vocab=304,
        act_fn="gelu", normalization_type="RMS", positional_embedding_type="rotary",
        rotary_dim=8, output_logits_soft_cap=CAP, initializer_range=0.4, device="cpu", seed=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
        model = HookedTransformer(config).eval()
    model.tokenizer = tokenizer
    generator = torch.Generator().manual_seed(1)
    model.ln_final.w.data = 1 + 0.4 * torch.randn(32, generator=generator)
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2", "soft-cap"])
def model(request):
    if request.param == "soft-cap":
        return handmade(tiny_tokenizer())
    return tiny_model(request.param)


def read_lens(model, *args, **options) -> pd.DataFrame:
    return logit_lens(model, *args, progress=False, **options).lens


def gold_request(model, item: Item, protocol: str = "continuation"):
    asked = build_requests(TASK, item, protocol, original_tokenizer(model))
    return next(one.request for one in asked if one.gold)


def hooked_streams(model, tokens) -> dict[tuple[str, int], torch.Tensor]:
    """The residual stream at every site and layer, by one plain forward."""
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.tensor([tokens]))
    found = {("resid_post", -1): cache["blocks.0.hook_resid_pre"][0].double()}
    for layer in range(model.cfg.n_layers):
        for site in SITES:
            found[site, layer] = cache[f"blocks.{layer}.hook_{site}"][0].double()
    return found


@torch.inference_mode()
def logprobs_by_hand(model, resid: torch.Tensor) -> torch.Tensor:
    """Log-probabilities by hand: norm, unembedding, and the soft-cap where there is one."""
    centred = model.cfg.normalization_type == "LN"
    resid = resid - resid.mean() if centred else resid
    resid = resid / (resid.pow(2).mean() + model.cfg.eps).sqrt() * model.ln_final.w.double()
    resid = resid + (model.ln_final.b.double() if centred else 0)
    logits = resid @ model.W_U.double() + model.b_U.double()
    cap = model.cfg.output_logits_soft_cap
    return (cap * torch.tanh(logits / cap) if cap > 0 else logits).log_softmax(-1)


def test_letters_are_read_where_the_tokenizer_tells_them_apart():
    model = handmade(word_level())
    lens = read_lens(model, TASK, "letter").set_index(["item", "layer"])
    for item in TASK.items:
        letter = LETTERS[item.choices.index(item.answer)]
        asked = gold_request(model, item, "letter")
        assert original_tokenizer(model).decode(asked.continuation) == letter
        with torch.inference_mode():
            final = model(torch.tensor([asked.context]))[0, -1].log_softmax(-1)
        expected = float(final[asked.continuation[0]])
        assert lens.loc[(item.id, 1), "logprob"] == pytest.approx(expected, abs=1e-5)


def option_tokens(model, task, item: Item, protocol: str) -> tuple[list[int], list[list[int]]]:
    """The context, and the options' tokens, the right one first."""
    asked = build_requests(task, item, protocol, original_tokenizer(model))
    tokens = [list(one.request.continuation) for one in sorted(asked, key=lambda one: not one.gold)]
    return list(asked[0].request.context), tokens


def by_hand(model, task, item: Item, protocol: str) -> dict[int, tuple[int, float, str]]:
    """Worst rank, log-probability and text of the deciding tokens, a forward pass for each."""
    context, (answer, *others) = option_tokens(model, task, item, protocol)
    shared = 0
    while all(one[shared] == answer[shared] for one in others):
        shared += 1
    stop = shared
    while any(one[:stop] == answer[:stop] for one in others):
        stop += 1
    ranks, logprobs = {}, {}
    for at in range(shared, stop):
        for (site, layer), resid in hooked_streams(model, context + answer[:at]).items():
            if site != "resid_post":
                continue
            expected = logprobs_by_hand(model, resid[-1])
            ranks.setdefault(layer, []).append(int((expected > expected[answer[at]]).sum()))
            logprobs.setdefault(layer, []).append(float(expected[answer[at]]))
    text = "".join(original_tokenizer(model).decode([one]) for one in answer[shared:stop])
    return {layer: (max(ranks[layer]), sum(logprobs[layer]), text) for layer in ranks}


NUMBERS = replace(
    TASK,
    items=(
        Item("two tokens", "How many?", "125", ("125", "129", "134")),
        Item("one token", "And now?", "134", ("125", "134", "19")),
        Item("at once", "At last?", "27", ("125", "134", "27")),
    ),
    fewshot=(),
)


@pytest.mark.hooked_transformer
@pytest.mark.parametrize("protocol", ["continuation", "letter"])
def test_answers_of_several_tokens_are_read_where_they_are_told_apart(protocol):
    model = tiny_model("llama")
    lens = read_lens(model, NUMBERS, protocol).set_index(["item", "layer"])
    for item in NUMBERS.items:
        for layer, (rank, logprob, text) in by_hand(model, NUMBERS, item, protocol).items():
            row = lens.loc[(item.id, layer)]
            assert (row["rank"], row["token"], row["pos"]) == (rank, text, -1)
            assert row["logprob"] == pytest.approx(logprob, abs=1e-4)
    read_as = lens.xs(-1, level="layer")["token"].to_dict()
    if protocol == "continuation":
        assert read_as == {"two tokens": "25", "one token": "3", "at once": "2"}


def test_blind_answers_of_several_tokens_must_all_be_on_top():
    model = tiny_model("llama")
    lens = read_lens(model, NUMBERS, "continuation")
    (first, *_) = NUMBERS.items
    other = with_other_questions(NUMBERS, [first], seed=0)[first.id][0]
    context, (answer, *_) = option_tokens(model, NUMBERS, other, "continuation")
    with torch.inference_mode():
        best = model(torch.tensor([context + answer[:-1]]))[0].argmax(-1)[len(context) - 1 :]
    row = lens.loc[lens["item"] == first.id].iloc[0]
    assert row["token"] == "25"
    assert row["blind"] == (best[2:4].tolist() == answer[2:4])


def test_numbers_without_choices_are_read_behind_what_all_of_them_share():
    bare = replace(NUMBERS, items=tuple(replace(item, choices=()) for item in NUMBERS.items))
    model = tiny_model("llama")
    lens = read_lens(model, bare, "continuation")
    tokens = [option_tokens(model, NUMBERS, item, "continuation")[1][0] for item in NUMBERS.items]
    assert len({one[0] for one in tokens}) == 1
    names = [original_tokenizer(model).decode([one[1]]) for one in tokens]
    assert lens.drop_duplicates("item")["token"].tolist() == names


ALIKE = Item(id="alike", question="which is", answer="1", choices=("12", "1", "one"))


def test_answers_that_begin_another_choice_are_left_out_and_named():
    task = replace(TASK, items=(*TASK.items, ALIKE))
    result = logit_lens(tiny_model("llama"), task, "continuation", progress=False)
    assert sorted(set(result.lens["item"])) == [item.id for item in TASK.items]
    (work,) = result.facts.work
    assert work["left_out"] == 1
    assert result.notes()[0] == (
        "The logit lens leaves out 1 of 6 items of words when it chooses, as the answer is the "
        "beginning of another choice: alike."
    )
    with pytest.raises(UserError) as told:
        read_lens(tiny_model("llama"), replace(TASK, items=(ALIKE,)), "continuation")
    assert str(told.value) == (
        "The logit lens reads the tokens that tell an answer apart, but in task 'words' under "
        "protocol 'continuation' every answer is the beginning of another of its choices; use "
        "other choices, or another protocol."
    )


def test_items_without_choices_are_read_under_continuation():
    bare = replace(TASK, items=tuple(replace(item, choices=()) for item in TASK.items))
    model = tiny_model("llama")
    known = [read_lens(model, task, "continuation") for task in (bare, TASK)]
    pd.testing.assert_frame_equal(*(table.drop(columns="options") for table in known))
    assert known[0]["options"].isna().all()
    with pytest.raises(UserError, match="has no choices, which protocol 'letter' needs"):
        read_lens(model, bare, "letter")


def check_rows(model, rows: pd.DataFrame, tokens, n_prompt: int, targets: dict[int, int]):
    """Every row of one item against the cache of one plain forward."""
    found, tokenizer = hooked_streams(model, tokens), original_tokenizer(model)
    wanted = {(site, layer, pos) for site, layer in found for pos in targets}
    assert {(r.site, r.layer, r.pos) for r in rows.itertuples()} == wanted
    assert len(rows) == len(wanted)
    last = model.cfg.n_layers - 1
    for row in rows.itertuples():
        at = n_prompt + row.pos
        expected = logprobs_by_hand(model, found[row.site, row.layer][at])
        final = logprobs_by_hand(model, found["resid_post", last][at])
        target = targets[row.pos]
        assert row.token == tokenizer.decode([target])
        assert row.logprob == pytest.approx(float(expected[target]), abs=1e-4)
        assert row.rank == int((expected > expected[target]).sum())
        assert row.final_rank == int((expected > expected[final.argmax()]).sum())
        assert row.kl == pytest.approx(float((final.exp() * (final - expected)).sum()), abs=1e-4)
        entropy = -float((expected.exp() * expected).sum())
        assert row.entropy == pytest.approx(entropy, abs=1e-4)
        best = expected.argsort(descending=True)[:5].tolist()
        assert list(row.top_tokens) == [tokenizer.decode([token]) for token in best]


@pytest.mark.long(but=["llama-all", "gpt2-all", "soft-cap-positions0", "soft-cap-all"])
@pytest.mark.hooked_transformer
@pytest.mark.parametrize("positions", [(-4, -1), "all"])
def test_every_site_and_position_equals_the_lens_worked_out_by_hand(model, positions):
    lens = read_lens(model, TASK, "continuation", sites=SITES, positions=positions, limit=2)
    for item in TASK.items[:2]:
        asked = gold_request(model, item)
        n = len(asked.context)
        at = range(-n, 0) if positions == "all" else positions
        mine = lens.loc[lens["item"] == item.id]
        check_rows(model, mine, asked.context, n, dict.fromkeys(at, asked.continuation[0]))


@pytest.mark.hooked_transformer
def test_the_answers_tokens_are_read_where_they_are_predicted(model):
    answers = ("red door opens", "the blue key")
    items = tuple(
        replace(item, answer=answer, choices=(answer, *item.choices))
        for item, answer in zip(TASK.items, answers, strict=False)
    )
    task = replace(TASK, items=items)
    lens = read_lens(model, task, "continuation", sites=SITES, over="continuation")
    for item in items:
        asked = build_requests(task, item, "continuation", original_tokenizer(model))
        gold = next(one.request for one in asked if one.gold)
        assert len(gold.continuation) > 2
        targets = {k - 1: token for k, token in enumerate(gold.continuation)}
        mine = lens.loc[lens["item"] == item.id]
        tokens = (*gold.context, *gold.continuation[:-1])
        check_rows(model, mine, tokens, len(gold.context), targets)


@pytest.mark.hooked_transformer
def test_generated_text_is_the_models_own_and_ends_on_top(model):
    result = logit_lens(model, TASK, over="generated", sites=SITES, limit=2, progress=False)
    lens = result.lens
    assert set(lens["protocol"]) == {"generate"}
    tokenizer = original_tokenizer(model)
    for item in TASK.items[:2]:
        (asked,) = build_requests(TASK, item, "generate", tokenizer)
        context = asked.request.context
        mine = lens.loc[lens["item"] == item.id]
        last = mine.loc[(mine["layer"] == model.cfg.n_layers - 1) & (mine["site"] == "resid_post")]
        assert (last["rank"] == 0).all()
        tokens = list(context)
        for _ in range(len(last)):
            with torch.inference_mode():
                tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        text = analysis.greedy_text(model, context, 4, asked.request.stop)
        assert tokenizer.decode(tokens[len(context) :], skip_special_tokens=True).startswith(text)
        targets = {pos: tokens[len(context) + 1 + pos] for pos in sorted(last["pos"])}
        check_rows(model, mine, tokens[:-1], len(context), targets)


def test_few_streams_at_once_change_nothing(monkeypatch):
    model = tiny_model("llama")
    whole = read_lens(model, TASK, "continuation", sites=SITES, positions="all")
    monkeypatch.setattr("layerwise.analyses.logit_lens.job.AT_ONCE", 3)
    parts = read_lens(
        model, TASK, "continuation", sites=SITES, positions="all", memory_budget=2**20
    )
    numbers = ["logprob", "entropy", "kl"]
    pd.testing.assert_frame_equal(whole.drop(columns=numbers), parts.drop(columns=numbers))
    pd.testing.assert_frame_equal(whole[numbers], parts[numbers], atol=1e-4)


@pytest.mark.parametrize(
    ("family", "options", "sentence"),
    [
        ("gpt_neox", {"sites": "resid_mid"}, "This model has no resid_mid"),
        ("llama", {"over": "generated"}, "Generated text is that of protocol 'generate'"),
    ],
)
def test_what_is_not_there_to_read_is_told(family, options, sentence):
    with pytest.raises(UserError) as told:
        read_lens(tiny_model(family), TASK, "continuation", **options)
    assert sentence in str(told.value)


@pytest.mark.long
@pytest.mark.smollm2
def test_the_real_model_knows_more_capitals_the_deeper_it_is_read():
    lens = read_lens(smollm2(), "facts", limit=5, fewshot=3)
    assert set(lens["protocol"]) == {"letter", "continuation"}
    open_ended = lens.loc[lens["protocol"] == "continuation"]
    by_layer = open_ended.groupby("layer")["logprob"].mean()
    assert by_layer[29] > -2
    assert by_layer[29] > by_layer[15] + 2
    assert (open_ended.loc[open_ended["layer"] == 29, "rank"] == 0).mean() >= 0.5
