"""Looks at single prompts: against plain hooks, against the analyses, and as people see them."""

from __future__ import annotations

import re
import shutil
import warnings
from html import unescape
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.models.instance.kinds import (
    hook_name,
    is_seq2seq,
    logit_cap,
    model_inputs,
    n_encoder_layers,
)
from layerwise.models.names.sources import find_without_weights
from layerwise.prompts import lens
from layerwise.prompts.drawing import SMALL, TOO_NARROW, cell_colors, in_cell
from layerwise.prompts.patch import align_positions, select_pairs
from layerwise.prompts.texts import (
    encode_prompt,
    readable,
    single_token_id,
    token_text,
    visible,
    with_direction_mark,
)
from layerwise.sweep.walk import readout
from tests.cases import in_long_runs

from .commands import run
from .models.decoder.tiny import tiny_decoder
from .models.seq2seq.tiny import tiny_seq2seq
from .models.tiny import tiny_folder, tiny_model

PROMPT, OTHER = (5, 17, 40, 9, 33), (5, 17, 41, 9, 33)
# By TransformerLens; with soft-caps and norms on both sides; with sinks; two stacks, norms behind.
MODELS = ["llama", "gemma 2", "gpt-oss", "t5", "bart"]
BY_DAY = ["llama", "gpt-oss", "t5"]


def case_model(case):
    if case == "llama":
        return tiny_model(case)
    return tiny_seq2seq(case) if case in ("t5", "bart") else tiny_decoder(case)


def record_sites(model, tokens, *sites):
    """Record some sites of a plain run of the model, and its logits."""
    kept = {}

    def keep(tensor, hook):
        kept[hook.name] = tensor[0].clone()

    names = [hook_name(model, layer, site) for layer, site in sites]
    with torch.inference_mode(), model.hooks(fwd_hooks=[(name, keep) for name in names]):
        logits = model(*model_inputs(model, [tokens]))[0]
    return [kept[name] for name in names], logits


def hooked_logprobs(model, tokens, *hooks):
    """Log-probabilities of the next token of a plain run with hooks."""
    with torch.inference_mode(), model.hooks(fwd_hooks=list(hooks)):
        return model(*model_inputs(model, [tokens]))[0, -1].log_softmax(-1)


def unembed(model, resid):
    logits, cap = model.unembed(model.ln_final(resid[None]))[0].float(), logit_cap(model)
    return (logits if cap is None else cap * torch.tanh(logits / cap)).log_softmax(-1)


@pytest.mark.parametrize("case", MODELS)
def test_lens_grid_is_what_a_plain_run_shows(case):
    model = case_model(case)
    grid = lw.lens_grid(model, PROMPT, token=7)
    n_encoder = n_encoder_layers(model)
    layers = range(n_encoder, model.cfg.n_layers)
    streams, logits = record_sites(model, PROMPT, *((layer, "resid_post") for layer in layers))
    name = f"log-probability of {grid.chosen[0]}"
    for layer, stream in zip(layers, streams, strict=True):
        mine = grid.table.loc[grid.table["layer"] == layer]
        expected = unembed(model, stream)
        assert mine[name].tolist() == pytest.approx(expected[:, 7].tolist(), abs=1e-4)
        best = expected.exp().max(-1).values.tolist()
        assert [row[0] for row in mine["top_probability"]] == pytest.approx(best, abs=1e-4)
        entropy = -(expected.exp() * expected).sum(-1)
        assert mine["entropy"].tolist() == pytest.approx(entropy.tolist(), abs=1e-4)
    last = logits.log_softmax(-1)[:, 7].tolist()
    assert mine[name].tolist() == pytest.approx(last, abs=1e-4)
    assert mine["kl"].tolist() == pytest.approx([0] * len(last), abs=1e-6)
    assert len(grid.table) == (len(layers) + 1) * len(last)


@pytest.mark.parametrize(
    ("case", "site"),
    [*((case, "z") for case in BY_DAY), ("llama", "layer"),
     *in_long_runs(*((case, "z") for case in MODELS if case not in BY_DAY),
                   *((case, "layer") for case in MODELS if case != "llama"))],
)  # fmt: skip
def test_skip_grid_is_what_a_plain_run_without_the_part_says(case, site):
    model = case_model(case)
    whole = hooked_logprobs(model, PROMPT)
    table = lw.skip_grid(model, PROMPT, site=site).table.dropna(subset=["layer"])
    for (layer, row), mine in table.groupby(["layer", "row" if site == "layer" else "head"]):
        kept = {}

        def keep(tensor, hook, kept=kept):
            kept["pre"] = tensor.clone()

        def put(tensor, hook, kept=kept):
            return kept["pre"]

        def skip_head(tensor, hook, head=int(row)):
            tensor[:, :, head] = 0
            return tensor

        hooks = [(hook_name(model, int(layer), "z"), skip_head)]
        if site == "layer":
            names = (hook_name(model, int(layer), name) for name in ("resid_pre", "resid_post"))
            hooks = list(zip(names, (keep, put), strict=True))
        expected = hooked_logprobs(model, PROMPT, *hooks)
        best, seen = expected.exp().topk(5), mine.iloc[0]
        assert seen["top_probability"] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert seen["top"] == readable(model, best.indices.tolist())
        if site == "layer":
            assert mine["value"].tolist() == seen["top_probability"]
        kl = float((whole.exp() * (whole - expected)).sum())
        assert seen["kl"] == pytest.approx(kl, abs=1e-3, rel=1e-3)


@pytest.mark.parametrize("look", [lw.lens_grid, lw.skip_grid])
def test_all_cells_are_unembedded_at_once(look, monkeypatch):
    # Reading the unembedding's weights anew for each cell took most of the time.
    rows = []
    logits_of = readout.uncapped_logits

    def counted(model, resid):
        rows.append(len(resid))
        return logits_of(model, resid)

    monkeypatch.setattr(readout, "uncapped_logits", counted)
    look(tiny_model("llama"), PROMPT)
    assert len(rows) <= 2
    assert max(rows) > 2


# Of unequal ones the last changed tokens, 40 and 42, stand for each other; 41 stands alone.
UNEQUAL = ((5, 17, 40, 9, 33), (5, 17, 41, 42, 9, 33))
PAIRS = {(PROMPT, OTHER): {n: n for n in range(5)}, UNEQUAL: {0: 0, 1: 1, 3: 2, 4: 3, 5: 4}}


@pytest.mark.parametrize(
    ("case", "prompts", "site"),
    [
        *((case, UNEQUAL, "z") for case in BY_DAY), ("llama", (PROMPT, OTHER), "resid_pre"),
        *in_long_runs(
            *((case, UNEQUAL, "z") for case in MODELS if case not in BY_DAY),
            *((case, UNEQUAL, "resid_pre") for case in MODELS), ("llama", (PROMPT, OTHER), "z"),
        ),
    ],
)  # fmt: skip
def test_patch_grid_is_what_a_plain_patched_run_gives_back(case, prompts, site):
    model, (clean, corrupted) = case_model(case), prompts
    grid = lw.patch_grid(model, clean, corrupted, 7, 8, site=site)
    unequal = "Without counterpart in the other prompt, so not patched: "
    assert any(note.startswith(unequal) for note in grid.notes) == (prompts == UNEQUAL)
    high, low = (
        float(said[7] - said[8]) for said in (hooked_logprobs(model, one) for one in prompts)
    )
    sources, _ = record_sites(model, clean, *((layer, site) for layer in range(model.cfg.n_layers)))
    for row in grid.table.itertuples():
        of_prompt = len(sources[row.layer]) == len(clean)
        pairs = PAIRS[prompts] if of_prompt else {0: 0}

        def put(tensor, hook, row=row, pairs=pairs):
            patched = tensor.clone()
            for pos, at in pairs.items() if site == "z" else [(row.position, row.clean_position)]:
                assert pairs[pos] == at
                head = [row.head] if site == "z" else []
                patched[0, pos, *head] = sources[row.layer][at, *head]
            return patched

        expected = hooked_logprobs(model, corrupted, (hook_name(model, row.layer, site), put))
        difference = float(expected[7] - expected[8])
        assert row.logit_difference == pytest.approx(difference, abs=1e-4)
        assert row.value == pytest.approx((difference - low) / (high - low), abs=2e-3)
    if site == "resid_pre":
        assert len(grid.panels[0].columns) == len(corrupted)
        first = grid.table.loc[grid.table["layer"] == 0]
        assert first.set_index("position")["clean_position"].to_dict() == PAIRS[prompts]


def test_first_and_last_changed_tokens_are_paired_and_others_are_named():
    model = tiny_model("llama")
    clean, corrupted = (5, 50, 51, 52, 53, 9), (5, 60, 61, 62, 9)
    pairs = align_positions(model, clean, corrupted)
    places = [(0, 0), (1, 1), (2, None), (3, None), (None, 2), (4, 3), (5, 4)]
    assert [pair[:2] for pair in pairs] == places
    assert [pair.tokens for pair in pairs if None in pair] == [(51, None), (52, None), (None, 61)]
    assert [pair[:2] for pair in select_pairs(pairs, [-1, 2])] == [(None, 2), (5, 4)]
    added = align_positions(model, (5, 9), (5, 7, 8, 9))
    assert [pair[:2] for pair in added] == [(0, 0), (None, 1), (None, 2), (1, 3)]


@pytest.mark.parametrize("case", MODELS)
def test_attention_grid_is_the_pattern_of_a_plain_run(case):
    model = case_model(case)
    layer = model.cfg.n_layers - 1 if not is_seq2seq(model) else 0
    grid = lw.attention_grid(model, PROMPT, layer=layer)
    (pattern,), _ = record_sites(model, PROMPT, (layer, "pattern"))
    for row in grid.table.itertuples():
        assert row.value == pytest.approx(float(pattern[row.head, row.row, row.column]), abs=1e-5)
    assert len(grid.panels) == len(pattern)
    if case != "gpt-oss":  # a part of its attention goes to a sink
        sums = grid.table.groupby(["head", "row"])["value"].sum()
        assert sums.tolist() == pytest.approx([1] * len(sums), abs=1e-4)


@pytest.mark.parametrize("case", MODELS)
def test_attribute_adds_up_to_the_logit_difference(case):
    model = case_model(case)
    grid = lw.attribute(model, PROMPT, 7, 8)
    _, logits = record_sites(model, PROMPT)
    difference = float(logits[-1, 7] - logits[-1, 8])
    numbers = [float(one) for one in re.findall(r"-?\d+\.\d+", grid.notes[0])]
    n_encoder = n_encoder_layers(model)
    mine = grid.table.loc[(grid.table["panel"] == 0) & (grid.table["layer"] >= n_encoder)]
    sublayers = mine["value"].sum()
    if n_encoder:
        assert "cross-attention" in grid.panels[0].columns
    assert numbers[0] == pytest.approx(difference, abs=0.006)
    assert sublayers + sum(numbers[1:]) == pytest.approx(difference, abs=0.05)


@pytest.mark.long
def test_looks_agree_with_the_analyses_of_the_same_prompts():
    model = tiny_model("llama")
    text = "the red door of the house is"
    right, wrong = (token_text(model.tokenizer, one) for one in (74, 77))
    assert not right.startswith(" ")
    assert not wrong.startswith(" ")
    asked = {"prompt": text, "answer": right, "wrong": wrong}
    task = lw.task_from_prompts([{**asked, "corrupted": "the old door of the house is"}])
    lens = lw.logit_lens(model, task, "continuation", positions="all", progress=False).to_pandas()
    grid = lw.lens_grid(model, text, token=right)
    both = lens.assign(position=lens["pos"] + 1 + grid.table["position"].max()).merge(
        grid.to_pandas(), on=["layer", "position"], suffixes=("", "_seen")
    )
    assert len(both) == len(grid.table)
    name = f"log-probability of {grid.chosen[0]}"
    assert both["logprob"].tolist() == pytest.approx(both[name].tolist(), abs=1e-4)
    parts = lw.attribution(model, task, "continuation", progress=False).to_pandas()
    parts = parts.loc[(parts["metric"] == "logit_diff") & (parts["component"] == "z")]
    heads = lw.attribute(model, text, right, wrong).to_pandas()
    heads = heads.loc[heads["component"] == "z"].merge(parts, on=["layer", "head"])
    assert heads["value_x"].tolist() == pytest.approx(heads["value_y"].tolist(), abs=1e-5)


def test_texts_without_a_layer_are_those_of_the_model_without_it():
    model = tiny_model("llama")
    grid = lw.skip_grid(model, "the red door", new_tokens=4)
    requests = [lw.sweep.Generate(encode_prompt(model, "the red door"), 4)]
    changes = [lw.sweep.skip(layer) for layer in range(model.cfg.n_layers)]
    texts = lw.sweep.sweep(model, changes, requests, method="reference").outcomes
    shown = grid.table.drop_duplicates("row")["continuation"].tolist()
    assert shown[1:] == [one.text for (one,) in texts]


def test_two_prompts_stand_side_by_side_with_their_difference():
    model = tiny_model("llama")
    grid = lw.lens_grid(model, ["a b", "b a"], token=74)
    name = f"log-probability of {grid.chosen[0]}"
    first, second = (grid.table.loc[grid.table["prompt"] == n, name].tolist() for n in (0, 1))
    difference = grid.difference()
    expected = [b - a for a, b in zip(first, second, strict=True)]
    assert difference.table["value"].tolist() == pytest.approx(expected)
    assert len(grid.panels) == 2
    with pytest.raises(lw.UserError, match="between two prompts of as many tokens"):
        lw.lens_grid(model, "the red door", token=74).difference()


def test_lines_show_chosen_tokens_over_the_layers():
    grid = lw.lens_grid(tiny_model("llama"), "the red door", token=[74, 77])
    (axes,) = grid.lines().axes
    last = grid.table.loc[grid.table["position"] == grid.table["position"].max()]
    for line, name in zip(axes.lines, grid.chosen, strict=True):
        assert line.get_ydata().tolist() == last[f"probability of {name}"].tolist()
    with pytest.raises(lw.UserError, match="Position 99 was not read"):
        grid.lines(99)


LONG = [5 + number % 50 for number in range(60)]
LONG_OTHER = [*LONG[:9], 7, *LONG[10:]]


def test_a_long_prompt_is_cut_where_one_looks_and_says_so():
    model = tiny_model("llama")
    grid = lw.lens_grid(model, LONG)
    assert len(grid.panels[0].columns) == 48
    assert "last 48 of 60 tokens" in grid.notes[0]
    assert len(lw.lens_grid(model, LONG, positions="all").panels[0].columns) == 60
    assert set(lw.lens_grid(model, LONG, positions=[0, -1]).table["position"]) == {0, 59}
    patched = lw.patch_grid(model, LONG, LONG_OTHER, 7, 8, layers=[1])
    assert patched.table["position"].tolist() == [9, *range(13, 60)]
    assert patched.notes[1] == "Shown are tokens that differ and the last: 48 of 60."
    assert patched.panels[0].columns[0].count("/") == 1


@pytest.mark.parametrize("case", ["llama", "t5"])
def test_some_layers_and_positions_are_those_of_the_whole_grid(case):
    model = case_model(case)
    last = model.cfg.n_layers - 1
    whole = lw.patch_grid(model, PROMPT, OTHER, 7, 8)
    part = lw.patch_grid(model, PROMPT, OTHER, 7, 8, layers=[last, 0], positions=[-1, 2])
    both = part.table.merge(whole.table, on=["layer", "position"], suffixes=("", "_whole"))
    assert len(both) == len(part.table)
    assert both["value"].tolist() == pytest.approx(both["value_whole"].tolist(), abs=1e-4)
    assert part.table.loc[part.table["row"] == 0, "position"].tolist() == [2, 4]
    assert part.panels[0].columns == tuple(whole.panels[0].columns[one] for one in (2, 4))
    before = whole.table.loc[whole.table["position"] < 2]
    assert case != "llama" or set(before["value"]) == {0.0}  # before the prompts differ
    skips = lw.skip_grid(model, PROMPT, layers=[last]).table
    assert skips["layer"].dropna().unique().tolist() == [last]


def test_tokens_are_shown_as_people_read_them():
    model = tiny_model("llama")
    tokenizer = model.tokenizer
    for token in (74, 290):
        assert single_token_id(model, token_text(tokenizer, token)) == token
    ids = tokenizer("a b\n", add_special_tokens=False)["input_ids"]
    assert "".join(visible(token_text(tokenizer, one)) for one in ids) == "a␣b↵"
    of_bytes = tokenizer("日", add_special_tokens=False)["input_ids"]
    assert [visible(token_text(tokenizer, one)) for one in of_bytes] == [
        "<0xE6>", "<0x97>", "<0xA5>",
    ]  # fmt: skip
    assert visible("\u202e") == "<U+202E>"
    assert visible("a\u00a0b") == "a⍽b"
    assert visible("سلام") == "سلام"


def test_bytes_accents_and_writing_from_the_right_stay_readable():
    class Tokenizer:
        def convert_ids_to_tokens(self, token):
            return "ĠðŁ"

        def decode(self, tokens, **options):
            return " �"

    assert visible(token_text(Tokenizer(), 0)) == "␣<0xF09F>"
    for accent in ("\u0301", "\ufe0f", "\u064e"):
        assert visible(accent) == f"◌{accent}"
        assert visible(f"e{accent}") == f"e{accent}"
    assert with_direction_mark("سلام") == "سلام\u200e"
    assert with_direction_mark("a <0xD8>") == "a <0xD8>"


def test_heads_name_the_next_token_only_where_it_changes():
    model = tiny_model("llama")
    grid = lw.skip_grid(model, "the red door", site="z")
    (note,) = grid.notes
    assert re.match(r"Intact, the model says (\S+ [.<0-9 ]+, )+\S+ [.<0-9 ]+\. Cells name", note)
    usual = lw.skip_grid(model, "the red door").table["text"].iloc[0]
    for row in grid.table.itertuples():
        assert row.text == ("" if row.top[0] == usual else row.top[0])
    assert len(set(grid.table["text"])) > 1


SHORT = [268] * 12  # short names, which stand slanted before they overlap


@pytest.mark.long(but=["attention", "short"])
@pytest.mark.parametrize(
    ("width", "look"),
    [
        (6.9, lambda m: lw.lens_grid(m, LONG)),
        (3.3, lambda m: lw.attention_grid(m, LONG, layer=0)),
        (3.3, lambda m: lw.patch_grid(m, LONG, LONG_OTHER, 7, 8, layers=[1])),
        (3.3, lambda m: lw.attention_grid(m, SHORT + SHORT[:8], layer=0)),
        (6.9, lambda m: lw.attention_grid(m, SHORT, layer=0)),
    ],
    ids=["lens", "attention", "patch", "short", "shorter"],
)
def test_a_figure_says_that_a_prompt_is_cut_and_its_names_do_not_overlap(look, width):
    grid = look(tiny_model("llama", max_position_embeddings=64))
    figure = grid.plot(width=width)
    figure.draw_without_rendering()
    *panels, _ = (axes for axes in figure.axes if axes.get_visible())
    cut = len(grid.panels[0].columns) >= 48
    assert cut == ("48 of 60" in panels[-1].get_xlabel().replace("\n", " "))
    for axes in panels:
        named = [one for one in axes.get_xticklabels() if one.get_text()]
        places = [axes.transData.transform((one.get_position()[0], 0))[0] for one in named]
        assert all(b - a > SMALL * figure.dpi / 72 for a, b in pairwise(places))
        if named and not named[0].get_rotation():
            boxes = [one.get_window_extent() for one in named]
            assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))
        rows = [one.get_window_extent() for one in axes.get_yticklabels() if one.get_text()]
        rows.sort(key=lambda box: box.y0)
        assert all(a.y1 < b.y1 and b.y0 - a.y0 > SMALL for a, b in pairwise(rows))


def test_texts_stay_within_their_cells():
    grid = lw.lens_grid(tiny_model("llama"), "日本 \U0001f469 a\u00a0b the red")
    width = 0.9 + 0.26 * len(grid.panels[0].columns)
    figure = grid.plot(width=width + 0.5)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    cell = axes.bbox.width / len(grid.panels[0].columns)
    assert axes.texts
    assert all(one.get_window_extent().width <= cell for one in axes.texts)
    # Bytes that do not fit are numbers alone.
    assert in_cell("<0xF09F>", 9.0) == "<0xF09F>"
    assert in_cell("␣<0xF09F>", 0.3) == "␣xF09F"
    assert in_cell("<U+200D>", 0.3) == "x200D"
    assert in_cell("a long text", 0.3) != "a long text"


def test_a_width_may_have_a_unit_and_a_wrong_one_gets_a_sentence():
    grid = lw.lens_grid(tiny_model("llama"), PROMPT, token=7)
    assert grid.plot(width="83.82 mm").get_figwidth() == pytest.approx(3.3)
    assert grid.lines(width="3.3in").get_figwidth() == pytest.approx(3.3)
    for width in ("wide", "3.3 feet", 0, float("nan"), 1000):
        with pytest.raises(lw.errors.UserError, match="expected 1 to 40 inches; write for example"):
            grid.plot(width=width)


def test_the_name_of_the_colours_is_not_cut_where_a_grid_is_low():
    grid = lw.patch_grid(tiny_model("llama"), PROMPT, OTHER, 7, 8, layers=[1])
    figure = grid.plot(width=3.3)
    figure.draw_without_rendering()
    name = figure.axes[-1].yaxis.label
    assert name.get_text().replace("\n", " ") == grid.unit
    box = name.get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1
    assert box.x1 <= figure.bbox.x1


def test_a_notebook_shows_a_table_without_script():
    grid = lw.lens_grid(tiny_model("llama"), "<b>&'\"</b>", token=74)
    page = grid._repr_html_()
    assert "<script" not in page
    assert "<b>&" not in page
    titles = re.findall(r'title="([^"]*)"', page)
    assert len(titles) == len(grid.table)
    assert all("entropy" in unescape(one) and "rank" in unescape(one) for one in titles)
    assert "no test was made" in page


def test_a_grid_is_saved_by_the_ending_of_its_name(tmp_path):
    grid = lw.attention_grid(tiny_model("llama"), "the red", layer=0, head=0)
    begins = {"a.png": b"\x89PNG", "a.svg": b"<?xml", "a.pdf": b"%PDF", "a.csv": b"panel,row"}
    for name, beginning in begins.items():
        assert grid.save(tmp_path / name).read_bytes().startswith(beginning)
    pd.testing.assert_frame_equal(
        pd.read_parquet(grid.save(tmp_path / "a.parquet")), grid.to_pandas()
    )
    with pytest.raises(lw.UserError, match="expected a name that ends in one of"):
        grid.save(tmp_path / "a.doc")
    page = grid.save(tmp_path / "a.html").read_text("utf-8")
    assert page.startswith("<!doctype")
    assert "display:flex" in page  # panels stand side by side
    assert '<meta name="color-scheme" content="light dark">' in page  # the reader's colours
    # a notebook's own cells are twice as high
    assert not re.search("<t[hd]>|<t[hd] (?!style=.padding)", page)


def test_colours_follow_values_and_text_stays_legible():
    grid = lw.skip_grid(tiny_model("llama"), "the red door")
    assert cell_colors(grid.bar, 0.0)[1] == "#1a1a1a"
    assert cell_colors(grid.bar, 1.0)[1] == "#ffffff"
    assert cell_colors(grid.bar, 0.0)[0] != cell_colors(grid.bar, 1.0)[0]


def prompts_task(*prompts):
    return lw.task_from_prompts(prompts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: lw.lens_grid(m, ""), "The prompt is empty"),
        (lambda m: lw.lens_grid(m, []), "no token"),
        (lambda m: lw.lens_grid(m, [True]), "expected a text, token ids, or turns of a chat"),
        (lambda m: lw.lens_grid(m, [9999]), "There is no token 9999"),
        (lambda m: lw.lens_grid(m, "the", token="red door"), "tokens .*: expected one; take the"),
        (lambda m: lw.lens_grid(m, "the", lens="tuned"), "expected tuned="),
        (lambda m: lw.lens_grid(m, "the", lens="logic"), "logit"),
        (lambda m: lw.lens_grid(m, "the", positions=[70]), "There is no position 70"),
        (lambda m: lw.lens_grid(m, "the", positions="some"), "or 'all'"),
        (lambda m: lw.lens_grid(m, "the", target="x"), "this model has none"),
        (lambda m: lw.lens_grid(m, "the" * 999), "the model's context"),
        (lambda m: lw.lens_grid(m, "a\ud800"), "without lone surrogates"),
        (lambda m: lw.lens_grid(m, "the", token="\ud800"), "without lone surrogates"),
        (lambda m: lw.lens_grid(m, "the", color="rank"), "of a chosen token: expected token="),
        (lambda m: lw.skip_grid(m, "the", site="cross_z"), "cross_z"),
        (lambda m: lw.skip_grid(m, "the", new_tokens=-1), "such as 0, at least 0"),
        (lambda m: lw.patch_grid(m, "the", "the red door", 7, 8), "expected as many, or the same"),
        (lambda m: lw.patch_grid(m, *UNEQUAL, 7, 8, positions=[2]), "no counterpart"),
        (lambda m: lw.patch_grid(m, *UNEQUAL, 7, 8, positions=[6]), "There is no position 6"),
        (lambda m: lw.patch_grid(m, "the", "the", 7, 8), "Both prompts are the same"),
        (lambda m: lw.patch_grid(m, PROMPT, OTHER, 7, 7), "expected two tokens"),
        (lambda m: lw.patch_grid(m, PROMPT, OTHER, 7, 8, layers=[9]), "Layer 9 is out of range"),
        (lambda m: lw.patch_grid(m, PROMPT, OTHER, 7, 8, positions=[5]), "There is no position 5"),
        (lambda m: lw.patch_grid(m, PROMPT, OTHER, 7, 8, site="z", positions=[0]), "at all tokens"),
        (lambda m: lw.skip_grid(m, "the", layers=["encoder.0"]), "encoder.0"),
        (lambda m: lw.attention_grid(m, "the", layer=99), "There is no layer 99"),
        (lambda m: lw.attention_grid(m, "the", layer=0, head=99), "There is no head 99"),
        (lambda m: lw.attention_grid(m, "the", layer=0, site="cross_pattern"), "no cross-att"),
        (lambda m: lw.attribute(m, "the", 7, 7), "expected two tokens"),
        (lambda m: prompts_task(), "There are no prompts"),
        (lambda m: prompts_task({"prompt": "a", "answer": "b", "wrnog": "c"}), "wrong"),
        (lambda m: prompts_task({"prompt": "a"}), "Field 'answer' of prompt 0"),
        (
            lambda m: prompts_task({"prompt": "a", "answer": "b", "wrong": "b"}),
            "expected different texts",
        ),
        (
            lambda m: prompts_task({"prompt": "a", "answer": " b", "wrong": "c"}),
            "begin with a space",
        ),
        (
            lambda m: prompts_task({"prompt": "a", "answer": "b", "corrupted": "c"}),
            "'corrupted_answer'",
        ),
    ],
)
def test_wrong_input_gets_one_sentence(call, message):
    with pytest.raises(lw.UserError, match=message) as raised:
        call(tiny_model("llama"))
    # IPython asks an exception for this before it writes a traceback.
    assert raised.value._render_traceback_() == [f"UserError: {raised.value}"]


def test_turns_of_a_chat_are_put_in_the_template():
    model = tiny_model("llama")
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    tokenizer = lw.models.original_tokenizer(model)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tokenizer, "chat_template", template, raising=False)
        assert encode_prompt(model, turns) == encode_prompt(model, "[system]Be brief.[user]Hi")
        assert encode_prompt(model, "Hi", chat=True) == encode_prompt(model, "[user]Hi")


def test_an_encoder_decoder_is_read_behind_what_it_has_written():
    model = tiny_seq2seq("t5")
    grid = lw.lens_grid(model, "the red door", target="of the")
    answer = model.tokenizer("of the", add_special_tokens=False)["input_ids"]
    assert grid.panels[0].columns[1:] == tuple(readable(model, answer))
    prompt = encode_prompt(model, "the red door")
    with torch.inference_mode():
        expected = model(*model_inputs(model, [prompt], answer))[0].softmax(-1).max(-1).values
    last = grid.table.loc[grid.table["row"] == grid.table["row"].max(), "value"]
    assert last.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    cross = lw.attention_grid(model, "the red door", layer=model.cfg.n_layers - 1,
                              site="cross_pattern")  # fmt: skip
    assert cross.panels[0].columns == tuple(readable(model, prompt))


def test_prompts_become_a_task_that_is_asked_and_patched():
    model = tiny_model("llama")
    one = {"prompt": "the red door is", "answer": " a", "wrong": [" b", " c"]}
    task = lw.task_from_prompts(
        [{**one, "corrupted": "the old door is"}, {**one, "prompt": "the old house is"}]
    )
    assert [item.choices.index("a") for item in task.items] == [0, 1]
    assert task.template.delimiter == " "
    records = lw.ablate(model, task, "continuation", progress=False).to_pandas()
    assert set(records["item"]) == {"prompts/0000", "prompts/0001"}
    prompts = lw.tasks.build_requests(
        task, task.items[0], "continuation", lw.models.original_tokenizer(model)
    )
    assert prompts[0].request.context == encode_prompt(model, "the red door is")


def test_the_command_shows_lens_and_skips():
    done = run("look", "wired-decoder", "k1 k2")
    assert "embedding" in done.out
    assert "without each layer" in done.out
    assert "no test was made" in done.out
    assert run("look", "wired-decoder", "").code == 2


def test_the_command_names_values_where_there_are_no_colours(monkeypatch):
    """Output to a file has no colours, nor has a terminal where NO_COLOR is set."""
    out = run("look", "wired-decoder", "k1 k2").out
    assert "(behind each text: probability of the top token)" in out
    embedding = next(line for line in out.splitlines() if "embedding" in line)
    assert len(re.findall(r"\s(?:\.\d\d|< \.01|1)\b", embedding)) == 3
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "(colour: probability" in run("look", "wired-decoder", "k1 k2").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "(behind each text: probability" in run("look", "wired-decoder", "k1 k2").out


@pytest.mark.parametrize("text", ["The capital of France is", "k1 Paris"])
def test_words_that_a_toy_model_does_not_know_are_refused(text):
    model = lw.load_model("wired-decoder")
    word = re.escape(repr(text.split()[-1] if text.startswith("k1") else "The"))
    says = rf"The model does not know {word}: it speaks a toy language; expected words such as \w+,"
    with pytest.raises(lw.errors.UserError, match=says):
        lw.lens_grid(model, text)


def test_entropy_and_divergence_of_a_large_vocabulary_are_those_of_float64(monkeypatch):
    logits = 3 * torch.randn(2, 4, 262_144, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(lens, "final_logits", lambda model, rows: rows)
    monkeypatch.setattr(lens, "readable", lambda model, tokens: ["a"] * len(tokens))
    cells = lens._cells(tiny_model("llama"), logits, {})
    exact = logits.double().log_softmax(-1)
    entropy = -(exact.exp() * exact).sum(-1).flatten()
    kl = (exact[-1].exp() * (exact[-1] - exact)).sum(-1).flatten()
    assert cells["entropy"].tolist() == pytest.approx(entropy.tolist(), abs=5e-4)
    assert cells["kl"].tolist() == pytest.approx(kl.tolist(), abs=5e-4)


def test_rows_of_a_cut_attention_grid_still_sum_to_one():
    model = tiny_model("llama", max_position_embeddings=64)
    table = lw.attention_grid(model, LONG, layer=0).table
    assert table.groupby(["head", "row"])["value"].sum().tolist() == pytest.approx([1.0] * 4 * 48)
    (pattern,), _ = record_sites(model, LONG, (0, "pattern"))
    row = table.query("head == 1 and position == 50").set_index("column")
    assert row["value"][0] == pytest.approx(float(pattern[1, 50, :12].sum()), abs=1e-5)
    assert row["value"][1] == pytest.approx(float(pattern[1, 50, 12]), abs=1e-5)
    assert (row["attended"][1], row["attended"].max()) == (12, 50)


@pytest.mark.long
@pytest.mark.parametrize("n_tokens", [8, 14])
def test_a_column_of_a_paper_has_room_for_the_tokens_of_a_short_prompt(n_tokens):
    figure = lw.lens_grid(tiny_model("llama"), SHORT[:1] * n_tokens).plot(width="3.3in")
    figure.draw_without_rendering()
    axes, cell = figure.axes[0], figure.axes[0].bbox.width / n_tokens
    assert len([one for one in axes.texts if one.get_text()]) == n_tokens * 4
    assert all(one.get_window_extent().width <= cell for one in axes.texts)
    assert all(one.get_window_extent().y0 >= 0 for one in figure.axes[-1].get_xticklabels())


def test_a_figure_says_that_it_has_no_room_for_texts():
    figure = lw.lens_grid(tiny_model("llama"), SHORT[:1] * 30).plot(width="3.3in")
    assert not any(one.get_text() for one in figure.axes[0].texts)
    assert TOO_NARROW in figure.axes[0].get_xlabel().replace("\n", " ")


@pytest.mark.long
@pytest.mark.parametrize("site", ["layer", "z"])
def test_skip_grids_and_attributions_name_the_prompt(site):
    model, text = tiny_model("llama"), "the red door is " * 8
    for prompt, named in (("the red door", "'the red door'"), (text, f"'…{text[-59:]}'")):
        grid = lw.skip_grid(model, prompt, site=site)
        assert grid.title.endswith(f"after {named}")
        label = grid.plot(width="3.3in").axes[0].get_xlabel().replace("\n", " ")
        assert label.split()[-1].rstrip(")") == named.split()[-1]
    assert lw.attribute(model, "the red door", 7, 8).title.endswith("after 'the red door'")


def test_a_note_says_which_changed_tokens_are_paired():
    notes = lw.patch_grid(tiny_model("llama"), (5, 17, 40, 9), (5, 41, 42, 43, 9), 7, 8).notes
    assert "only the first and the last are paired" in notes[1]
    notes = lw.patch_grid(tiny_model("llama"), (5, 40, 9), (5, 41, 42, 43, 9), 7, 8).notes
    assert "only the last are paired" in notes[1]
    notes = lw.patch_grid(tiny_model("llama"), (5, 9), (5, 41, 42, 9), 7, 8).notes
    assert "Without counterpart" in notes[1]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A tiny model of as many layers as SmolLM2-135M, with its tokenizer."""
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 30}
    size |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    folder = tiny_folder(
        tmp_path_factory.mktemp("reader"), "llama", vocab_size=49_152,
        max_position_embeddings=256, **size,
    )  # fmt: skip
    for path in find_without_weights("smollm2-135m").folder.glob("*token*"):
        shutil.copyfile(path, folder / path.name)
    return lw.load_model(folder)


@pytest.mark.parametrize(
    ("name", "n_blocks", "written"), [("prompts", 3, "france.html"), ("primitives", 5, None)]
)
def test_the_python_of_a_page_runs(reader, tmp_path, monkeypatch, name, n_blocks, written):
    page = (Path(__file__).parents[1] / "docs" / f"{name}.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lw, "load_model", lambda name: reader)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == n_blocks
    names = {}
    for block in blocks:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Too few items")  # one stands for some twenty
            exec(block, names)
    assert written is None or (tmp_path / written).is_file()
