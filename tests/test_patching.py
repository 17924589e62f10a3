"""Activation patching against hooks written by hand, in one stack and in two."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
import torch

from layerwise.analyses.patching.api import patch_activations
from layerwise.analyses.patching.cells import (
    HEAD_SITES,
    PATCH_SITES,
    PatchingLayout,
    places_in_prompt,
)
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.models.instance.kinds import (
    Model,
    decoder_prefix,
    hook_name,
    is_seq2seq,
    model_inputs,
    n_encoder_layers,
    n_layer_heads,
)
from layerwise.models.libraries.quiet import silence_deprecation
from layerwise.report import report
from layerwise.runs.setup import Setup
from layerwise.sweep import LogLikelihood
from layerwise.tasks import (
    Corruption,
    Item,
    PatchingPrompts,
    Task,
    build_requests,
    load_task,
    patching_prompts,
)
from tests import analysis
from tests.analysis import prompt_pair, word_task
from tests.cases import in_long_runs
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.real import smollm2
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model, tiny_tokenizer

PLAIN_SITES = ("resid_pre", "attn_out", "mlp_out")
BOTH = ("denoising", "noising")
# Questions and what they are changed to; the words that differ have as many tokens each.
CHANGES = (
    ("the key of the open red one is", "the what of the open red one is"),
    ("the red door of the what is", "the blue door of the what is"),
    ("the key by the red what is", "the what by the blue key is"),
    ("the four key is", "the four what is"),
)
UNEQUAL = ("the red key by the door is", "the seven blue key by the door is")


def case_model(case: str) -> Model:
    """A tiny model; that of BART's decoder begins with two tokens."""
    if case in ("llama", "gpt_neox"):
        return tiny_model(case, seed=1)
    model = tiny_seq2seq(case)
    model.prefix = (*model.prefix, 5) if case.startswith("bart") else model.prefix
    return model


def pair_task(model: Any, changes: Any = CHANGES) -> Task:
    pairs = [prompt_pair(model, f"pair/{i}", *change) for i, change in enumerate(changes)]
    assert None not in pairs
    return word_task(items=tuple(pairs))


def item_prompts(model: Model, task: Task, item: str) -> PatchingPrompts:
    (found,) = (one for one in task.items if one.id == item)
    prompts = patching_prompts(task, found, original_tokenizer(model), apart=is_seq2seq(model))
    assert prompts is not None
    return prompts


@torch.inference_mode()
def intact(model: Model, tokens: tuple[int, ...]) -> torch.Tensor:
    return model(*model_inputs(model, [tokens]))[0, -1].double().log_softmax(-1)


@torch.inference_mode()
def by_hand(model: Model, prompts: PatchingPrompts, row: Any) -> torch.Tensor:
    """Log-probabilities after one prompt with one cell taken from the other, by one hook."""
    runs = prompts.corrupted, prompts.clean
    tokens, source = runs if row.direction == "denoising" else runs[::-1]
    layer = int(row.layer)
    name = hook_name(model, layer, row.site)
    _, cache = model.run_with_cache(*model_inputs(model, [source]))
    decoding = 0 < n_encoder_layers(model) <= layer and row.site not in ("cross_k", "cross_v")
    whole = range(len(decoder_prefix(model) if decoding else tokens))
    places = [(p, p) for p in whole] if row.pos_label == "all" else [(row.pos, row.source_pos)]

    def put(value, hook):
        patched = value.clone()
        for pos, there in places:
            if row.site.endswith("pattern"):
                patched[:, int(row.head), pos] = cache[name][:, int(row.head), there]
            elif row.site.endswith("z"):
                patched[:, pos, int(row.head)] = cache[name][:, there, int(row.head)]
            else:
                patched[:, pos] = cache[name][:, there]
        return patched

    logits = model.run_with_hooks(*model_inputs(model, [tokens]), fwd_hooks=[(name, put)])
    return logits[0, -1].double().log_softmax(-1)


def check(model: Model, task: Task, table: pd.DataFrame, n_rows: int) -> None:
    """Some rows of each site against hooks written by hand."""
    for _, of_site in table.groupby("site"):
        for row in of_site.sample(min(len(of_site), n_rows), random_state=0).itertuples():
            prompts = item_prompts(model, task, row.item)
            expected = by_hand(model, prompts, row)
            ends = [intact(model, tokens) for tokens in (prompts.clean, prompts.corrupted)]
            right, wrong = prompts.clean_answer, prompts.corrupted_answer
            clean, corrupted, patched = (float(x[right] - x[wrong]) for x in (*ends, expected))
            found = row.clean_diff, row.corrupted_diff, row.patched_diff
            assert found == pytest.approx((clean, corrupted, patched), abs=1e-4), row
            assert row.patched_logprob == pytest.approx(float(expected[right]), abs=1e-4)
            back = row.direction == "noising"
            base, aim = (corrupted, clean)[:: -1 if back else 1]
            assert row.recovered == pytest.approx((patched - base) / (aim - base), abs=1e-3)
            if row.patched_kl == row.patched_kl:
                source, other = ends[:: -1 if back else 1]
                away = [float((source.exp() * (source - x)).sum()) for x in (other, expected)]
                assert (row.unpatched_kl, row.patched_kl) == pytest.approx(away, abs=1e-5)


@pytest.mark.long(but=["llama-True"])
@pytest.mark.parametrize(
    ("case", "kl"),
    [
        ("llama", True), ("gpt_neox", False), ("t5", True),
        *in_long_runs(
            ("llama", False), ("gpt_neox", True), ("bart", True), ("t5", False),
            ("bart-scaled", False),
        ),
    ],
)  # fmt: skip
def test_every_site_direction_and_metric_equals_hooks_written_by_hand(case: str, kl: bool):
    """In a decoder of two pairs that differ in one place and in two."""
    model = case_model(case)
    two_stacks = is_seq2seq(model)
    task = pair_task(model, CHANGES[2:3] if two_stacks else CHANGES[1:3])
    sites = [site for site in PatchingLayout.for_model(model).sites()
             if site != "resid_mid" or case != "gpt_neox"]  # fmt: skip
    labels = {"last changed", "last", "all"}
    if two_stacks:
        labels |= {"before", "middle changed", "answer"}
        labels |= {"start"} if len(decoder_prefix(model)) > 1 else set()
    table = patch_activations(
        model, task, sites=sites, directions=BOTH, positions=sorted(labels), kl=kl, progress=False
    ).patching
    assert set(table["site"]) == set(sites)
    assert set(table["pos_label"]) == labels
    assert table["patched_kl"].notna().all() == kl
    check(model, task, table, 4)


@pytest.mark.long(but=["llama", "bart"])
@pytest.mark.parametrize("case", ["llama", "t5", "bart"])
def test_there_is_a_row_for_every_site_layer_head_and_position(case: str):
    model = case_model(case)
    task, n_encoder, n_begins = pair_task(model, CHANGES[3:]), n_encoder_layers(model), 0
    sites, of_prompt = PATCH_SITES[:7], {"last changed", "next", "further", "last"}
    if n_encoder:
        sites, n_begins = PATCH_SITES, len(decoder_prefix(model))
        of_prompt |= {"before"}
    found = patch_activations(model, task, sites=sites, progress=False).patching
    assert list(found.columns) == analysis.documented_columns("patching.parquet")
    prompt = [label for label in found.query("site == 'resid_pre' and layer == 0")["pos_label"]]
    assert set(prompt) == of_prompt
    begins = ["start"] * (n_begins - 1) + ["answer"]
    for site in sites:
        for layer in range(model.cfg.n_layers):
            decoding = 0 < n_encoder <= layer
            expected = begins if decoding else prompt
            if site in HEAD_SITES:
                expected = ["last changed", "last", "all"]
                expected = ["answer", *["all"] * (n_begins > 1)] if decoding else expected
            if site in ("cross_k", "cross_v") and decoding:
                expected = prompt
            nothing = "cross" in site and not decoding
            nothing |= site == "pattern" and decoding and n_begins == 1
            n_heads = n_layer_heads(model, layer) if site in HEAD_SITES else 1
            here = found.loc[(found["site"] == site) & (found["layer"] == layer)]
            assert sorted(here["pos_label"]) == ([] if nothing else sorted(expected * n_heads))
    assert (found["pos"].dropna() == found["source_pos"].dropna()).all()


def test_pairs_of_one_template_share_a_sweep(monkeypatch):
    """Another test compares pairs of different cells with hooks; these two have the same ones."""
    model = case_model("llama")
    twins = ("the red door of the key is", "the blue door of the key is")
    task = pair_task(model, (CHANGES[1], twins, CHANGES[3]))
    swept = []

    def counted(self, interventions, requests, method="engine"):
        swept.append((len(interventions), len(requests)))
        return sweep(self, interventions, requests, method)

    sweep = Setup.sweep
    monkeypatch.setattr(Setup, "sweep", counted)
    found = patch_activations(
        model, task, sites="resid_pre", positions="last", progress=False
    ).patching
    assert swept == [(1, 12), (3, 4), (3, 2)]
    assert found["item"].tolist() == [item.id for item in task.items for _ in range(3)]
    check(model, task, found, len(found))


def labels(clean: str, corrupted: str) -> list[tuple[int, str]]:
    """The labelled positions of two prompts, one token a letter."""
    prompts = PatchingPrompts("made-up", tuple(map(ord, clean)), tuple(map(ord, corrupted)), 1, 2)
    found = places_in_prompt(prompts)
    return [(places[0][0], label) for label, places in found if label != "all"]


FIRST, MIDDLE, CHANGED = "first changed", "middle changed", "last changed"


@pytest.mark.parametrize(
    ("clean", "corrupted", "expected"),
    [
        ("ax", "ay", [(1, "last")]),
        ("xab", "yab", [(0, CHANGED), (1, "next"), (2, "last")]),
        ("xx", "yy", [(0, FIRST), (1, "last")]),
        ("xxxxa", "yyyya", [(0, FIRST), (1, MIDDLE), (2, MIDDLE), (3, CHANGED), (4, "last")]),
        # What stands between two changed words counts as changed: it comes after a change.
        ("axbxc", "aybyc", [(1, FIRST), (2, MIDDLE), (3, CHANGED), (4, "last")]),
        ("axbcde", "aybcde",
         [(1, CHANGED), (2, "next"), (3, "further"), (4, "further"), (5, "last")]),
    ],
)  # fmt: skip
def test_positions_are_labelled_by_where_they_stand(clean, corrupted, expected):
    assert labels(clean, corrupted) == expected


def test_of_many_further_tokens_a_few_stand_for_all():
    for between in range(12):
        found = labels("xn" + "f" * between + "e", "yn" + "f" * between + "e")
        further = [pos for pos, label in found if label == "further"]
        assert (between > 0) <= len(further) <= min(between, 4)
        assert len({b - a for a, b in pairwise(further)}) <= 1
        assert [found[0], found[-1]] == [(0, CHANGED), (between + 2, "last")]


LONGER = Item(
    id="longer", question="the key is", answer="red", choices=("red", "two"),
    corruption=Corruption("the seven key is", "two"),
)  # fmt: skip
ALIKE = Item(
    id="alike", question="the key is", answer="open", choices=("open", "one"),
    corruption=Corruption("the what is", "one"),
)  # fmt: skip
LONG = replace(LONGER, id="long", question="the key " * 300,
               corruption=Corruption("the what " + "the key " * 299, "two"))  # fmt: skip


def test_pairs_that_cannot_be_compared_are_left_out():
    model = case_model("llama")
    task = pair_task(model)
    more = replace(task, items=(LONGER, ALIKE, *task.items, *word_task(2, "bare").items))
    expected, found = (
        patch_activations(model, some, sites=PLAIN_SITES, progress=False) for some in (task, more)
    )
    pd.testing.assert_frame_equal(found.patching, expected.patching)
    work, left_out = found.facts.work
    assert (work["pairs"], left_out["left_out"]) == (len(task.items), 4)
    sentence = (
        "Activation patching leaves out 4 of 8 items of words when it chooses, as the two prompts "
        "differ in length (1), both answers begin with the same token (1) and there is no "
        "corrupted prompt (2): longer, alike, bare/0000 and more."
    )
    assert found.notes()[0] == sentence
    assert sentence in report(found).html


def test_pairs_that_the_model_does_not_solve_are_left_out():
    model = case_model("llama")
    task = pair_task(model)

    def turned(item: Item) -> Item:
        change = replace(item.corruption, answer=item.answer)
        return replace(item, answer=item.choices[1], corruption=change)

    half = replace(task, items=(turned(task.items[0]), task.items[1], turned(task.items[2])))
    found = patch_activations(model, half, progress=False)
    assert set(found.patching["item"]) == {"pair/1"}
    # Those that it has the wrong way round are counted, for the guard against guessing.
    assert found.patching["pairs_solved"].eq(1).all()
    assert found.patching["pairs_reversed"].eq(2).all()
    none = patch_activations(model, replace(task, items=(turned(task.items[0]),)), progress=False)
    assert len(none.patching) == 0
    assert "No pair could be patched: there is none in which the mod" in none._repr_html_()
    few = patch_activations(model, task, pairs=2, progress=False).patching
    assert list(dict.fromkeys(few["item"])) == ["pair/0", "pair/1"]
    assert few["pairs_solved"].eq(len(task.items)).all()


@pytest.mark.long(but=["llama"])
@pytest.mark.parametrize("case", ["llama", "bart"])
def test_pairs_of_unequal_length_are_aligned_by_what_differs(case: str):
    model = case_model(case)
    task = pair_task(model, [UNEQUAL])
    prompts = item_prompts(model, task, "pair/0")
    spans = prompts.changed_ranges
    assert len(spans[0]) < len(spans[1])
    sites = ("resid_pre", "z")
    if case == "bart":
        sites = tuple(site for site in PATCH_SITES if not site.endswith("pattern"))
    found = patch_activations(
        model, task, sites=sites, directions=BOTH, align=True, progress=False
    ).patching
    check(model, task, found, 4)
    of_prompt = found.loc[found["pos_label"].isin([CHANGED, "next", "last"])]
    assert len(of_prompt)
    for row in of_prompt.itertuples():
        (span, other), (tokens, source) = spans, (prompts.clean, prompts.corrupted)
        if row.direction == "denoising":
            span, other, tokens, source = other, span, source, tokens
        assert (row.pos, row.source_pos) == {
            CHANGED: (span[-1], other[-1]),
            "next": (span.stop, other.stop),
            "last": (len(tokens) - 1, len(source) - 1),
        }[row.pos_label]


def test_the_prompts_are_those_of_the_continuation_protocol():
    model, task = case_model("t5"), load_task("kv-words", limit=5)
    for item in task.items:
        asked = build_requests(task, item, "continuation", original_tokenizer(model), apart=True)
        (gold,) = [one.request for one in asked if one.gold]
        pair = item_prompts(model, task, item.id)
        assert isinstance(gold, LogLikelihood)
        assert (pair.clean, pair.clean_answer) == (gold.context, gold.continuation[0])


# Tokens that are only put in change nothing that could be aligned.
PUT_IN = ("the key of the open red one is", "the seven key of the open red one is")


@pytest.mark.parametrize(
    ("case", "items", "options", "sentence"),
    [
        ("llama", word_task(2).items, {},
         "Task 'words' has no pairs for activation patching; choose a task whose items have a "
         "corruption, e.g. kv-words or facts."),
        ("llama", (LONGER,), {},
         "No pair of task 'words' can be patched: Item 'longer' and its corruption have 13 and "
         "17 tokens; patching needs equal lengths, or pairs that are aligned."),
        ("llama", (ALIKE,), {},
         "No pair of task 'words' can be patched: The answers to item 'alike' and to its "
         "corruption begin with the same token; patching needs different ones."),
        ("llama", (LONG,), {}, "tokens, but the model takes 256; take fewer few-shot examples or"),
        ("llama", PUT_IN, {"align": True}, "patching needs a changed token in each"),
        ("llama", (), {"sites": "pattern", "align": True}, "unequal length have different keys;"),
        ("gpt_neox", (), {"sites": "resid_mid"}, "no residual stream between attention and MLP"),
        ("bart", CHANGES[3], {"sites": "cross_pattern", "align": True}, "have different keys"),
        ("t5", CHANGES[3], {"positions": "start"}, "Unknown position 'start'"),
        ("t5", CHANGES[3],
         {"sites": ["resid_pre", "cross_attn_out"], "positions": ["last", "before"]},
         "Site cross_attn_out is not at position 'last', 'before': expected one of answer, all; "
         "name one of these, or leave the site out."),
        ("bart", CHANGES[3], {"sites": "cross_v", "positions": ["answer"]}, "Site cross_v is not"),
        ("t5", CHANGES[3], {"sites": "pattern", "positions": "answer"}, "one of before, first ch"),
    ],
)  # fmt: skip
def test_what_cannot_be_patched_is_told_before_work_begins(
    tmp_path, case, items, options, sentence
):
    model = case_model(case)
    if all(isinstance(one, Item) for one in items):
        task = word_task(items=items or word_task(2).items)
    else:
        task = pair_task(model, [items])
    with pytest.raises(UserError) as told:
        patch_activations(model, task, out=tmp_path / "run", progress=False, **options)
    assert sentence in str(told.value)
    assert not (tmp_path / "run").exists()


def test_an_mlp_that_is_not_there_cannot_be_patched():
    config = HookedTransformerConfig(
        n_layers=1, d_model=16, n_ctx=128, d_head=8, n_heads=2, d_vocab=304, attn_only=True,
        device="cpu", seed=0,
    )  # fmt: skip
    with silence_deprecation("HookedTransformer"):
        model = HookedTransformer(config)
    model.tokenizer = tiny_tokenizer()
    with pytest.raises(UserError, match="blocks have no MLP; choose site resid_pre or attn_out"):
        patch_activations(model, word_task(2), sites="mlp_out", progress=False)


def test_the_layout_of_a_decoder_only_model_is_one_stack():
    layout = PatchingLayout.for_model(tiny_model("llama"))
    assert layout.sites() == PATCH_SITES[:7]
    labels = (FIRST, MIDDLE, CHANGED, "next", "further", "last", "all")
    assert layout.labels(["z"]) == labels
    two = replace(layout, n_encoder=1, n_begins=2)
    assert two.labels(["cross_k"])[0] == "before"
    assert two.labels(["cross_z"]) == ("start", "answer", "all")


@pytest.mark.long
@pytest.mark.smollm2
def test_in_the_real_model_the_answer_moves_to_the_last_position():
    model = smollm2()
    found = patch_activations(model, "kv-words", positions="last", pairs=2, limit=6, progress=False)
    at_the_end = found.patching.loc[found.patching["pos_label"] == "last"]
    by_layer = at_the_end.groupby("layer")["recovered"].mean()
    assert at_the_end["item"].nunique() == 2
    assert abs(by_layer[0]) < 1e-3
    assert by_layer[29] > 0.8
