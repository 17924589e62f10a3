"""Activation patching against hooks written by hand, and where it must recover all or nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from layerwise.analyses.patching.api import patch_activations
from layerwise.analyses.patching.cells import places_in_prompt
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.models.huggingface.quiet import no_deprecation_of
from layerwise.report import report
from layerwise.runs.setup import Setup
from layerwise.tasks import Corruption, Item, PatchingPrompts, Task, patching_prompts
from tests import analysis
from tests.analysis import prompt_pair, word_task
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.real import smollm2
from tests.models.tiny import tiny_model, tiny_tokenizer

PLAIN_SITES = ("resid_pre", "attn_out", "mlp_out")
# Questions and what they are changed to; the words that differ have as many tokens each.
CHANGES = (
    ("the key of the open red one is", "the what of the open red one is"),
    ("the red door of the what is", "the blue door of the what is"),
    ("the key by the red what is", "the what by the blue key is"),
    ("the four key is", "the four what is"),
)


def pairs_for(model) -> Task:
    pairs = [prompt_pair(model, f"pair/{i}", *change) for i, change in enumerate(CHANGES)]
    assert None not in pairs
    return word_task(items=tuple(pairs))


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def model(request):
    return tiny_model(request.param, seed=1)


# What does not depend on the model's family.
any_model = pytest.mark.parametrize("model", ["llama"], indirect=True)


@pytest.fixture(scope="module")
def task(model):
    return pairs_for(model)


@pytest.fixture(scope="module")
def patching(model, task) -> pd.DataFrame:
    return patch_activations(model, task, sites=PLAIN_SITES, progress=False).patching


def test_a_row_for_every_pair_site_layer_and_position(model, task, patching):
    assert list(patching.columns) == analysis.documented_columns("patching.parquet")
    tokenizer = original_tokenizer(model)
    expected = [
        (item.id, site, layer, places[0][0], label)
        for item in task.items
        for label, places in places_in_prompt(patching_prompts(task, item, tokenizer))
        if label != "all"
        for site in PLAIN_SITES
        for layer in range(3)
    ]
    key = ["item", "site", "layer", "pos", "pos_label"]
    assert sorted(patching[key].itertuples(index=False, name=None)) == sorted(expected)
    assert (patching["clean_diff"] > 0).all()
    assert (patching["corrupted_diff"] < 0).all()


BY_HOOKS = (*PLAIN_SITES, "resid_mid", "resid_post", "z", "pattern")


def hooked(model, prompts, cell, direction) -> torch.Tensor:
    """Log-probabilities after one prompt with one cell taken from the other, by one hook."""
    runs = prompts.corrupted, prompts.clean
    tokens, source = runs if direction == "denoising" else runs[::-1]
    inside = {"z": "attn.hook_z", "pattern": "attn.hook_pattern"}
    name = f"blocks.{cell.layer}.{inside.get(cell.site, 'hook_' + cell.site)}"
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.tensor([source]))
        every = list(range(prompts.changed[0].start, len(tokens)))
        places = every if cell.pos_label == "all" else [int(cell.pos)]

        def put(tensor, hook):
            out = tensor.clone()
            for pos in places:
                if cell.site == "z":
                    out[:, pos, int(cell.head)] = cache[name][:, pos, int(cell.head)]
                elif cell.site == "pattern":
                    out[:, int(cell.head), pos] = cache[name][:, int(cell.head), pos]
                else:
                    out[:, pos] = cache[name][:, pos]
            return out

        logits = model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=[(name, put)])
    return logits[0, -1].double().log_softmax(-1)


def sites_of(model) -> list[str]:
    parallel = model.cfg.parallel_attn_mlp
    return [site for site in BY_HOOKS if not (parallel and site == "resid_mid")]


def test_pairs_of_one_template_share_a_sweep(model, monkeypatch):
    """Another test holds pairs of different cells to hooks; these two have the same ones."""
    changes = (
        ("the red door of the what is", "the blue door of the what is"),
        ("the red door of the key is", "the blue door of the key is"),
    )
    twins = [prompt_pair(model, f"pair/{i}", *change) for i, change in enumerate(changes)]
    assert None not in twins
    single = prompt_pair(model, "pair/2", "the four key is", "the four what is")
    task = word_task(items=(*twins, single))
    swept = []

    def counted(self, interventions, requests, method="engine"):
        swept.append((len(interventions), len(requests)))
        return sweep(self, interventions, requests, method)

    sweep = Setup.sweep
    monkeypatch.setattr(Setup, "sweep", counted)
    options = {"sites": "resid_pre", "positions": "last", "progress": False}
    found = patch_activations(model, task, **options).patching
    assert swept == [(1, 12), (3, 4), (3, 2)]
    assert found["item"].tolist() == [item.id for item in task.items for _ in range(3)]
    for row in found.itertuples():
        (item,) = (item for item in task.items if item.id == row.item)
        prompts = patching_prompts(task, item, original_tokenizer(model))
        expected = hooked(model, prompts, row, "denoising")
        difference = float(expected[prompts.clean_answer] - expected[prompts.corrupted_answer])
        assert row.patched_diff == pytest.approx(difference, abs=1e-4)


def labels(clean: str, corrupted: str) -> list[tuple[int, str]]:
    """The labelled positions of two prompts, one token a letter."""
    prompts = PatchingPrompts("made-up", tuple(map(ord, clean)), tuple(map(ord, corrupted)), 1, 2)
    found = places_in_prompt(prompts)
    return [(places[0][0], label) for label, places in found if label != "all"]


@pytest.mark.parametrize(
    ("clean", "corrupted", "expected"),
    [
        ("x", "y", [(0, "last")]),
        ("ax", "ay", [(1, "last")]),
        ("xa", "ya", [(0, "last changed"), (1, "last")]),
        ("xab", "yab", [(0, "last changed"), (1, "next"), (2, "last")]),
        ("xx", "yy", [(0, "first changed"), (1, "last")]),
        ("xxa", "yya", [(0, "first changed"), (1, "last changed"), (2, "last")]),
        (
            "xxxxa",
            "yyyya",
            [
                (0, "first changed"),
                (1, "middle changed"),
                (2, "middle changed"),
                (3, "last changed"),
                (4, "last"),
            ],
        ),
        (
            # What stands between two changed words counts as changed: it comes after a change.
            "axbxc",
            "aybyc",
            [(1, "first changed"), (2, "middle changed"), (3, "last changed"), (4, "last")],
        ),
        ("axbx", "ayby", [(1, "first changed"), (2, "middle changed"), (3, "last")]),
        (
            "axbcde",
            "aybcde",
            [(1, "last changed"), (2, "next"), (3, "further"), (4, "further"), (5, "last")],
        ),
    ],
)
def test_positions_are_labelled_by_where_they_stand(clean, corrupted, expected):
    assert labels(clean, corrupted) == expected


@pytest.mark.parametrize("between", range(12))
def test_of_many_further_tokens_a_few_stand_for_all(between):
    found = labels("x" + "n" + "f" * between + "e", "y" + "n" + "f" * between + "e")
    further = [pos for pos, label in found if label == "further"]
    assert len(further) <= min(between, 4)
    assert bool(further) == (between > 0)
    assert len(set(np.diff(further))) <= 1
    assert [pos for pos, _ in found] == sorted({pos for pos, _ in found})
    assert found[0] == (0, "last changed")
    assert found[-1] == (between + 2, "last")


LONGER = Item(
    id="longer", question="the key is", answer="red", choices=("red", "two"),
    corruption=Corruption("the seven key is", "two"),
)  # fmt: skip
ALIKE = Item(
    id="alike", question="the key is", answer="open", choices=("open", "one"),
    corruption=Corruption("the what is", "one"),
)  # fmt: skip


@any_model
def test_pairs_that_cannot_be_compared_are_left_out(model, task, patching):
    more = replace(task, items=(LONGER, ALIKE, *task.items, *word_task(2, "bare").items))
    found = patch_activations(model, more, sites=PLAIN_SITES, progress=False)
    pd.testing.assert_frame_equal(found.patching, patching)
    work, left_out = found.facts.work
    assert work["pairs"] == len(task.items)
    assert left_out["left_out"] == 4
    sentence = (
        "Activation patching leaves out 4 of 8 items of words when it chooses, as the two prompts "
        "differ in length (1), both answers begin with the same token (1) and there is no "
        "corrupted prompt (2): longer, alike, bare/0000 and more."
    )
    assert found.notes()[0] == sentence
    assert sentence in report(found).html


@any_model
def test_pairs_that_the_model_does_not_solve_are_left_out(model, task):
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
    assert (
        "No pair could be patched: there is none in which the model prefers" in none._repr_html_()
    )


@any_model
def test_only_so_many_pairs_are_patched(model, task):
    found = patch_activations(model, task, pairs=2, progress=False)
    assert list(dict.fromkeys(found.patching["item"])) == ["pair/0", "pair/1"]
    assert found.patching["pairs_solved"].eq(len(task.items)).all()
    found = patch_activations(model, task, limit=1, progress=False)
    assert set(found.patching["item"]) == {"pair/0"}


@any_model
def test_sites_are_patched_once_each(model, task, patching):
    found = patch_activations(model, task, sites=["mlp_out", "mlp_out"], progress=False).patching
    expected = patching.loc[patching["site"] == "mlp_out"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-3)


LONG = replace(LONGER, id="long", question="the key " * 300,
               corruption=Corruption("the what " + "the key " * 299, "two"))  # fmt: skip


@pytest.mark.parametrize(
    ("items", "options", "sentence"),
    [
        (
            word_task(2).items,
            {},
            "Task 'words' has no pairs for activation patching; choose a task whose items have a "
            "corruption, e.g. kv-words or facts.",
        ),
        (
            (LONGER,),
            {},
            "No pair of task 'words' can be patched: Item 'longer' and its corruption have 13 and "
            "17 tokens; patching needs equal lengths, or pairs that are aligned.",
        ),
        (
            (ALIKE,),
            {},
            "No pair of task 'words' can be patched: The answers to item 'alike' and to its "
            "corruption begin with the same token; patching needs different ones.",
        ),
        ((LONG,), {}, "tokens, but the model takes 256; take fewer few-shot examples or a"),
    ],
)
def test_what_cannot_be_patched_is_told_before_work_begins(tmp_path, items, options, sentence):
    task = word_task(items=items)
    with pytest.raises(UserError) as told:
        patch_activations(
            tiny_model("llama"), task, out=tmp_path / "run", progress=False, **options
        )
    assert sentence in str(told.value)
    assert not (tmp_path / "run").exists()


def test_an_mlp_that_is_not_there_cannot_be_patched(tmp_path):
    config = HookedTransformerConfig(
        n_layers=1, d_model=16, n_ctx=128, d_head=8, n_heads=2, d_vocab=304, attn_only=True,
        device="cpu", seed=0,
    )  # fmt: skip
    with no_deprecation_of("HookedTransformer"):
        model = HookedTransformer(config)
    model.tokenizer = tiny_tokenizer()
    with pytest.raises(UserError, match="blocks have no MLP; choose site resid_pre or attn_out"):
        patch_activations(
            model, word_task(2), sites="mlp_out", out=tmp_path / "run", progress=False
        )
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize("kl", [False, True])
def test_every_site_direction_and_metric_equals_hooks_written_by_hand(model, task, kl):
    """Of two pairs that differ in one place and in two."""
    labels = ("last changed", "last", "all")
    items = {item.id: item for item in task.items[1:3]}
    found = patch_activations(
        model, replace(task, items=tuple(items.values())), sites=sites_of(model),
        directions=("denoising", "noising"), positions=labels, kl=kl, progress=False,
    ).patching  # fmt: skip
    n_heads = model.cfg.n_heads
    per_label = 3 * (len(sites_of(model)) - 2 + 2 * n_heads)
    assert len(found) == 2 * 2 * per_label * 3
    assert found["head"].isna().sum() == 2 * 2 * 3 * 3 * (len(sites_of(model)) - 2)
    for item, rows in found.groupby("item"):
        prompts = patching_prompts(task, items[item], original_tokenizer(model))

        def difference(logprobs: torch.Tensor, prompts=prompts) -> float:
            return float(logprobs[prompts.clean_answer] - logprobs[prompts.corrupted_answer])

        with torch.inference_mode():
            intact = [
                model(torch.tensor([tokens]))[0, -1].double().log_softmax(-1)
                for tokens in (prompts.clean, prompts.corrupted)
            ]
        for run, column in zip(intact, ("clean_diff", "corrupted_diff"), strict=True):
            np.testing.assert_allclose(rows[column], difference(run), atol=1e-4)
        for row in rows.sample(25, random_state=0).itertuples():
            expected = hooked(model, prompts, row, row.direction)
            assert row.patched_diff == pytest.approx(difference(expected), abs=1e-4)
            right = float(expected[prompts.clean_answer])
            assert row.patched_logprob == pytest.approx(right, abs=1e-4)
            ends = row.corrupted_diff, row.clean_diff
            base, aim = ends if row.direction == "denoising" else ends[::-1]
            share = (difference(expected) - base) / (aim - base)
            assert row.recovered == pytest.approx(share, abs=1e-3)
            if kl:
                source, other = intact if row.direction == "denoising" else intact[::-1]
                away = [float((source.exp() * (source - x)).sum()) for x in (other, expected)]
                assert row.unpatched_kl == pytest.approx(away[0], abs=1e-5)
                assert row.patched_kl == pytest.approx(away[1], abs=1e-5)
    assert found["patched_kl"].notna().all() == kl


def test_heads_have_positions_of_their_own(model, task):
    found = patch_activations(model, task, sites="z", pairs=2, progress=False).patching
    assert set(found["pos_label"]) <= {"last changed", "last", "all"}
    assert set(found["head"]) == set(range(4))
    named = found.loc[found["pos_label"] != "all"]
    assert (named["pos"] == named["source_pos"]).all()


# One token more in one prompt than in the other, before and after what they share.
UNEQUAL = ("the key of the open red one is", "the seven key of the open red one is")


def test_prompts_of_unequal_length_are_refused_or_aligned_by_what_differs(model):
    tokenizer = original_tokenizer(model)
    clean, corrupted = "the red key by the door is", "the seven blue key by the door is"
    pair = prompt_pair(model, "unequal", clean, corrupted)
    task = word_task(items=(pair,))
    prompts = patching_prompts(task, pair, tokenizer)
    assert len(prompts.clean) < len(prompts.corrupted)
    with pytest.raises(UserError, match="patching needs equal lengths, or pairs that are aligned"):
        patch_activations(model, task, progress=False)
    found = patch_activations(
        model, task, sites=("resid_pre", "z"), positions=("last changed", "next", "last", "all"),
        align=True, directions=("denoising", "noising"), progress=False,
    ).patching  # fmt: skip
    assert set(found["pos_label"]) == {"last changed", "next", "last"}
    spans = prompts.changed
    assert len(spans[0]) < len(spans[1])
    assert prompts.clean[spans[0].stop :] == prompts.corrupted[spans[1].stop :]
    name = "blocks.1.hook_resid_pre"
    for direction, back in (("denoising", False), ("noising", True)):
        mine = found.query("site == 'resid_pre' and layer == 1")
        mine = mine.loc[mine["direction"] == direction]
        tokens, source = (prompts.corrupted, prompts.clean)[:: -1 if back else 1]
        span, other = spans[:: 1 if back else -1]
        with torch.inference_mode():
            _, cache = model.run_with_cache(torch.tensor([source]))
        for row in mine.itertuples():
            pos, there = {
                "last changed": (span[-1], other[-1]),
                "next": (span.stop, other.stop),
                "last": (len(tokens) - 1, len(source) - 1),
            }[row.pos_label]
            assert (row.pos, row.source_pos) == (pos, there)
            with torch.inference_mode():

                def put(x, hook, pos=pos, there=there, cache=cache):
                    x = x.clone()
                    x[:, pos] = cache[name][:, there]
                    return x

                logits = model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=[(name, put)])
            logits = logits[0, -1]
            diff = float(logits[prompts.clean_answer] - logits[prompts.corrupted_answer])
            assert row.patched_diff == pytest.approx(diff, abs=1e-4)


def test_tokens_that_are_only_put_in_change_nothing_that_could_be_aligned(model):
    pair = prompt_pair(model, "longer", *UNEQUAL)
    with pytest.raises(UserError, match="patching needs a changed token in each"):
        patch_activations(model, word_task(items=(pair,)), align=True, progress=False)


@pytest.mark.parametrize(
    ("family", "options", "sentence"),
    [
        ("llama", {"sites": "pattern", "align": True}, "of unequal length have different keys;"),
        ("gpt_neox", {"sites": "resid_mid"}, "no residual stream between attention and MLP"),
    ],
)
def test_options_that_cannot_be(family, options, sentence):
    with pytest.raises(UserError, match=sentence):
        patch_activations(tiny_model(family), word_task(2), progress=False, **options)
