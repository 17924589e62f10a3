"""Activation patching against hooks written by hand, and where it must recover all or nothing."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from layerwise.errors import UserError
from layerwise.models import load_model, original_tokenizer
from layerwise.patching import PATCH_SITES, Position, patch_activations, positions_of
from layerwise.tasks import Corruption, Item, PatchingPrompts, Task, patching_prompts
from tests import analysis
from tests.analysis import prompt_pair, word_task
from tests.models.tiny import tiny_model, tiny_tokenizer

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


@pytest.fixture(scope="module")
def task(model):
    return pairs_for(model)


@pytest.fixture(scope="module")
def patching(model, task) -> pd.DataFrame:
    return patch_activations(model, task, sites=PATCH_SITES, progress=False).patching


def test_a_row_for_every_pair_site_layer_and_position(model, task, patching):
    assert list(patching.columns) == analysis.documented_columns("patching.parquet")
    tokenizer = original_tokenizer(model)
    expected = [
        (item.id, site, layer, position.pos, position.label)
        for item in task.items
        for position in positions_of(patching_prompts(task, item, tokenizer))
        for site in PATCH_SITES
        for layer in range(3)
    ]
    key = ["item", "site", "layer", "pos", "pos_label"]
    assert sorted(patching[key].itertuples(index=False, name=None)) == sorted(expected)
    assert (patching["clean_diff"] > 0).all()
    assert (patching["corrupted_diff"] < 0).all()


def patched_by_hand(model, prompts: PatchingPrompts, site: str, layer: int, pos: int) -> float:
    """Logit difference of the corrupted run with one activation of the clean run."""
    name = f"blocks.{layer}.hook_{site}"
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.tensor([prompts.clean]))

        def put(tensor, hook):
            tensor = tensor.clone()
            tensor[0, pos] = cache[name][0, pos]
            return tensor

        corrupted = torch.tensor([prompts.corrupted])
        logits = model.run_with_hooks(corrupted, fwd_hooks=[(name, put)])[0, -1]
    return float(logits[prompts.clean_answer] - logits[prompts.corrupted_answer])


@pytest.mark.parametrize("index", [1, 2])
def test_every_cell_equals_a_hook_written_by_hand(model, task, patching, index):
    prompts = patching_prompts(task, task.items[index], original_tokenizer(model))
    mine = patching.loc[patching["item"] == task.items[index].id]
    with torch.inference_mode():
        clean, corrupted = (
            model(torch.tensor([tokens]))[0, -1] for tokens in (prompts.clean, prompts.corrupted)
        )
    whole = float(clean[prompts.clean_answer] - clean[prompts.corrupted_answer])
    none = float(corrupted[prompts.clean_answer] - corrupted[prompts.corrupted_answer])
    assert len(mine) >= 3 * 3 * 4
    for row in mine.itertuples():
        assert row.clean_diff == pytest.approx(whole, abs=1e-4)
        assert row.corrupted_diff == pytest.approx(none, abs=1e-4)
        expected = patched_by_hand(model, prompts, row.site, row.layer, row.pos)
        assert row.patched_diff == pytest.approx(expected, abs=1e-4)
        share = (row.patched_diff - row.corrupted_diff) / (row.clean_diff - row.corrupted_diff)
        assert row.recovered == pytest.approx(share)


def test_what_enters_the_first_layer_at_the_one_changed_token_is_everything(patching):
    """One token differs, so that putting its embedding back makes the clean run."""
    single = patching.loc[patching["item"].isin(["pair/0", "pair/3"])]
    first = single.loc[(single["site"] == "resid_pre") & (single["layer"] == 0)]
    changed = first.loc[first["pos_label"] == "last changed"]
    assert len(changed) == 2
    assert changed["recovered"].tolist() == pytest.approx([1, 1], abs=1e-4)
    np.testing.assert_allclose(changed["patched_diff"], changed["clean_diff"], atol=1e-4)
    # At the other positions the same tokens enter in both runs, so nothing can come back.
    assert len(first) > 2
    assert first.loc[first["pos_label"] != "last changed", "recovered"].abs().max() < 1e-4


def test_deeper_down_the_answer_is_in_more_than_one_place(patching):
    """The test above could not hold for just any cell."""
    deeper = patching.loc[(patching["layer"] > 0) & (patching["site"] == "resid_pre")]
    assert ((deeper["recovered"] - 1).abs() > 0.01).any()
    assert (deeper.loc[deeper["pos_label"] == "last", "recovered"].abs() > 0.01).all()


def labels(clean: str, corrupted: str) -> list[tuple[int, str]]:
    """The labelled positions of two prompts, one token a letter."""
    prompts = PatchingPrompts("made-up", tuple(map(ord, clean)), tuple(map(ord, corrupted)), 1, 2)
    found = positions_of(prompts)
    assert all(isinstance(position, Position) for position in found)
    return [(position.pos, position.label) for position in found]


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


def test_pairs_that_cannot_be_compared_are_left_out(model, task, patching):
    more = replace(task, items=(LONGER, ALIKE, *task.items, *word_task(2, "bare").items))
    found = patch_activations(model, more, sites=PATCH_SITES, progress=False)
    pd.testing.assert_frame_equal(found.patching, patching)
    (work,) = found.facts.work
    assert work["pairs"] == len(task.items)


def test_pairs_that_the_model_does_not_solve_are_left_out(model, task):
    def turned(item: Item) -> Item:
        change = replace(item.corruption, answer=item.answer)
        return replace(item, answer=item.choices[1], corruption=change)

    half = replace(task, items=(turned(task.items[0]), task.items[1], turned(task.items[2])))
    found = patch_activations(model, half, progress=False)
    assert set(found.patching["item"]) == {"pair/1"}
    none = patch_activations(model, replace(task, items=(turned(task.items[0]),)), progress=False)
    assert len(none.patching) == 0
    assert "No pair could be patched." in none._repr_html_()


def test_only_so_many_pairs_are_patched(model, task):
    found = patch_activations(model, task, pairs=2, progress=False)
    assert list(dict.fromkeys(found.patching["item"])) == ["pair/0", "pair/1"]
    found = patch_activations(model, task, limit=1, progress=False)
    assert set(found.patching["item"]) == {"pair/0"}


def test_sites_are_patched_once_each(model, task, patching):
    found = patch_activations(model, task, sites=["mlp_out", "mlp_out"], progress=False).patching
    expected = patching.loc[patching["site"] == "mlp_out"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-3)


def test_summary_is_the_ratio_of_means(model, task):
    result = patch_activations(model, task, progress=False)
    summary = result.summary().set_index(["layer", "pos_label"])
    table = result.patching
    cell = table.loc[(table["layer"] == 1) & (table["pos_label"] == "last")]
    gain = (cell["patched_diff"] - cell["corrupted_diff"]).mean()
    expected = gain / (cell["clean_diff"] - cell["corrupted_diff"]).mean()
    assert summary.loc[(1, "last"), "recovered"] == pytest.approx(expected)
    assert summary.loc[(1, "last"), "n_items"] == len(task.items)


def test_names_are_escaped_where_a_notebook_shows_them(model, task):
    named = replace(task, name="<script>alert(1)</script>")
    shown = patch_activations(model, named, pairs=1, progress=False)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "recovered" in shown


def test_a_run_can_be_kept_and_is_not_made_again(model, task, tmp_path, monkeypatch):
    first = patch_activations(model, task, out=tmp_path / "run", progress=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "patching.parquet",
        "run.json",
    ]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["tasks"][0]["hash"] == task.hash
    assert facts["settings"]["sites"] == ["resid_pre"]
    assert facts["work"][0]["token_passes"] < facts["work"][0]["brute_force_token_passes"]
    monkeypatch.setattr("layerwise._setup.sweep", None)
    again = patch_activations(model, task, out=tmp_path / "run", progress=False)
    pd.testing.assert_frame_equal(again.patching, first.patching)
    with pytest.raises(UserError, match=r"other settings \(pairs was 16 and is now 3\)"):
        patch_activations(model, task, pairs=3, out=tmp_path / "run", progress=False)


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
            "17 tokens; patching needs equal lengths.",
        ),
        (
            (ALIKE,),
            {},
            "No pair of task 'words' can be patched: The answers to item 'alike' and to its "
            "corruption begin with the same token; patching needs different ones.",
        ),
        ((LONG,), {}, "tokens, but the model takes 256; take fewer few-shot examples or a"),
        ((ALIKE,), {"sites": "resid_pr"}, "Unknown site 'resid_pr'. Did you mean 'resid_pre'?"),
        ((ALIKE,), {"sites": []}, "No site is left to patch; name at least one of resid_pre,"),
        ((ALIKE,), {"pairs": 0}, "At least one pair is needed for patching, not 0."),
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
        model = HookedTransformer(config)
    model.tokenizer = tiny_tokenizer()
    with pytest.raises(UserError, match="blocks have no MLP; choose site resid_pre or attn_out"):
        patch_activations(
            model, word_task(2), sites="mlp_out", out=tmp_path / "run", progress=False
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.smollm2
def test_in_the_real_model_the_answer_moves_to_the_last_position():
    model = load_model("smollm2-135m")
    found = patch_activations(model, "kv-words", pairs=2, limit=12, progress=False)
    at_the_end = found.patching.loc[found.patching["pos_label"] == "last"]
    by_layer = at_the_end.groupby("layer")["recovered"].mean()
    assert at_the_end["item"].nunique() == 2
    assert abs(by_layer[0]) < 1e-3
    assert by_layer[29] > 0.8
