"""Single heads and key/value groups of one model in another: exact, and found where planted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
import transformers

import layerwise as lw
from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.analyses.transplant.exchange.parts import head_parts, n_site_heads
from layerwise.analyses.transplant.exchange.weights import distances, use_donor_weights
from layerwise.errors import UserError
from layerwise.models.decoder.load import hooked_decoder
from layerwise.models.instance.facts import weights_hash
from layerwise.models.instance.kinds import model_blocks
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.sweep import intact, sweep
from tests.cases import LONG, in_long_runs
from tests.models.decoder.tiny import tiny_decoder, tiny_original
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import session_folder, tiny_folder, tiny_model
from tests.planted import small_model, small_task
from tests.transplanting import (
    LAYOUT,
    assert_answers_equal,
    assert_single_carrier,
    exchange,
    word_requests,
)  # fmt: skip

Weights = dict[str, torch.Tensor]
LAYER, HEAD, WIDTH = 1, 2, 12  # the head that is exchanged; the width of the tiny models' heads
GROUPED = WiredLayout(
    n_layers=5, n_heads=4, previous=Spot(0, 1), look_up=Spot(1, 2), facts=Spot(2, 1),
    second_hop=Spot(3, 0), gate=Spot(4, 1), n_shared=2,
)  # fmt: skip


def rows(head: int, n: int = 1) -> slice:
    return slice(head * WIDTH, (head + n) * WIDTH)


def gpt2_head(mine: Weights, theirs: Weights) -> None:
    """Queries, keys and values lie side by side in one matrix whose rows are inputs."""
    of = f"transformer.h.{LAYER}.attn."
    for part in range(3):
        columns = slice(part * 48 + rows(HEAD).start, part * 48 + rows(HEAD).stop)
        mine[f"{of}c_attn.weight"][:, columns] = theirs[f"{of}c_attn.weight"][:, columns]
        mine[f"{of}c_attn.bias"][columns] = theirs[f"{of}c_attn.bias"][columns]
    mine[f"{of}c_proj.weight"][rows(HEAD)] = theirs[f"{of}c_proj.weight"][rows(HEAD)]


def group_swap(heads: slice, keys: slice | None) -> Callable[[Weights, Weights], None]:
    def put(mine: Weights, theirs: Weights) -> None:
        of = f"model.layers.{LAYER}.self_attn."
        taken = [("q_proj", heads), *([] if keys is None else [("k_proj", keys), ("v_proj", keys)])]
        for name, at in taken:
            for kind in ("weight", "bias"):
                if f"{of}{name}.{kind}" in mine:
                    mine[f"{of}{name}.{kind}"][at] = theirs[f"{of}{name}.{kind}"][at]
        mine[f"{of}o_proj.weight"][:, heads] = theirs[f"{of}o_proj.weight"][:, heads]

    return put


ONE, GROUP = group_swap(rows(HEAD), None), group_swap(rows(2, 2), rows(1))
CASES = {
    "gpt2 head": ("gpt2", "z", HEAD, gpt2_head),
    "qwen2 head": ("qwen2", "z", HEAD, ONE),
    "qwen2 group": ("qwen2", "kv_group", 1, GROUP),
    "qwen3 group": ("qwen3", "kv_group", 1, GROUP),
}


@pytest.mark.parametrize(
    "case", ["gpt2 head", "qwen2 group", *in_long_runs(("qwen2 head",), ("qwen3 group",))]
)
def test_answers_are_those_of_a_folder_that_really_has_the_slices(case, tmp_path, monkeypatch):
    family, site, head, put = CASES[case]
    monkeypatch.setenv("LAYERWISE_CACHE", str(session_folder() / "cache"))
    model, other = tiny_model(family), tiny_model(family, seed=1)
    folders = [tiny_folder(tmp_path, family, seed=seed) for seed in (0, 1)]
    mine, theirs = (transformers.AutoModelForCausalLM.from_pretrained(f) for f in folders)
    weights = mine.state_dict()
    before = {name: weight.clone() for name, weight in weights.items()}
    put(weights, theirs.state_dict())
    assert any((weights[name] != weight).any() for name, weight in before.items())
    mine.save_pretrained(folders[0])
    asked = word_requests(model)
    (plain,) = sweep(lw.load_model(folders[0]), [intact()], asked, method="reference").outcomes
    with use_donor_weights(model, other, site, [LAYER], heads=[head]):
        (found,) = sweep(model, [intact()], asked).outcomes
    assert_answers_equal(found, plain)
    (unchanged,) = sweep(model, [intact()], asked[:1]).outcomes
    assert unchanged[0].token_logprobs != found[0].token_logprobs


@pytest.mark.parametrize(("site", "n", "taken"), [("z", 2, [2]), ("kv_group", 1, [2, 3])])
def test_the_sink_of_a_head_goes_with_it(site, n, taken):
    """Of two query heads that share keys both, where their group is exchanged."""
    model = copy.deepcopy(tiny_decoder("gpt-oss"))
    other = hooked_decoder(tiny_original("gpt-oss", seed=2), None, "other")
    before, theirs = (one.blocks[LAYER].attn.parts.sinks.clone() for one in (model, other))
    with use_donor_weights(model, other, site, [LAYER], heads=[n]):
        now = model.blocks[LAYER].attn.parts.sinks
        changed = (now != before).nonzero().flatten().tolist()
        assert changed == taken
        assert torch.equal(now[taken], theirs[taken])


@pytest.mark.parametrize(
    ("case", "site"),
    [("bart", "z"), ("t5", "cross_z"), *in_long_runs(("t5", "z"), ("bart", "cross_z"))],
)
def test_heads_of_encoder_decoders_are_their_rows_and_columns(case, site):
    model = tiny_seq2seq(case)
    layer = model.cfg.n_encoder_layers  # the decoder's first
    names = {"z": ("attn", "SelfAttention", "self_attn"),
             "cross_z": ("cross", "EncDecAttention", "encoder_attn")}[site]  # fmt: skip
    other, merged = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for weight in parts_of_block(other, model_blocks(other)[layer])["layer"]:
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.manual_seed(0)))
    inside = f"decoder.{'block' if case == 't5' else 'layers'}.0."
    width = model_blocks(model)[layer].parts.attn.d_head
    at, changed = slice(width, 2 * width), 0
    theirs = dict(other.original.named_parameters())
    with torch.no_grad():
        for name, weight in merged.original.named_parameters():
            if inside not in name or not any(f".{one}." in name for one in names):
                continue
            end = name.rpartition(".")[0].rpartition(".")[2]
            if end in ("q", "k", "v", "q_proj", "k_proj", "v_proj"):
                weight[at] = theirs[name][at]
                changed += 1
            elif end in ("o", "out_proj") and name.endswith("weight"):
                weight[:, at] = theirs[name][:, at]
                changed += 1
    assert changed == (4 if case == "t5" else 7)
    asked = word_requests(model)
    (plain,) = sweep(merged, [intact()], asked, method="reference").outcomes
    with use_donor_weights(model, other, site, [layer], heads=[1]):
        (found,) = sweep(model, [intact()], asked).outcomes
    assert_answers_equal(found, plain)


@pytest.mark.parametrize("make", [
    lambda: tiny_model("qwen3"), lambda: tiny_model("gpt2"), lambda: tiny_seq2seq("t5"),
], ids=["qwen3", "gpt2", "t5"])  # fmt: skip
def test_groups_cover_the_projections_once_and_nothing_that_heads_share(make):
    model = make()
    block = model_blocks(model)[-1]
    counted: dict[int, torch.Tensor] = {}
    for head in range(n_site_heads(model, "kv_group", len(model_blocks(model)) - 1)):
        for part in head_parts(model, block, "kv_group", head):
            seen = counted.setdefault(id(part.weight), torch.zeros(part.weight.shape))
            part.view(seen).add_(1)
    assert all((seen == 1).all() for seen in counted.values())
    shared = {
        tuple(weight.shape)
        for weight in parts_of_block(model, block)["attn_out"]
        if id(weight) not in counted
    }
    width, wide = (12, 48) if not hasattr(model, "original") else (None, model.cfg.d_model)
    # norms of the stream, the output's bias, and norms of a head's width
    assert shared <= {(wide,), (width,)}
    assert (12,) in shared or "Qwen3" not in model.cfg.original_architecture


def without_head(model: Any, site: str, layer: int, head: int) -> Any:
    """A copy of a model whose head computes next to nothing."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        for part in head_parts(broken, model_blocks(broken)[layer], site, head):
            part.view(part.weight).mul_(1e-6)
    return broken


@pytest.mark.long
def test_the_head_in_which_two_decoders_differ_is_found_in_both_directions():
    whole = small_model(LAYOUT)
    broken = without_head(whole, "z", LAYOUT.look_up.layer, LAYOUT.look_up.head)
    found = exchange(whole, broken, small_task("retrieval"), site="z", layers=[1, 3])
    assert len(found.effects()) == 2 * 2 * 2
    assert_single_carrier(found, "head 1.0", 1, 0)
    assert found.ranks()["n_layers"].eq(4).all()


@pytest.mark.long
def test_a_query_head_is_told_from_its_siblings_and_a_group_from_its_heads():
    whole, task = small_model(GROUPED), small_task("retrieval")
    broken = without_head(whole, "z", 1, 2)
    heads = exchange(broken, whole, task, site="z", layers=[1])
    assert_single_carrier(heads, "head 1.2", 1, 2)
    if LONG:
        groups = exchange(broken, whole, task, site="kv_group", layers=[1])
        assert_single_carrier(groups, "key/value group 1.1", 1, 1)
    # what a group shares is no single head's to bring
    keys = copy.deepcopy(whole)
    with torch.no_grad():
        keys.blocks[1].attn._W_V[1].mul_(1e-6)
    alone = exchange(keys, whole, task, site="z", layers=[1], heads=[2, 3])
    assert alone.effects()["moved"].eq(0).all()
    found = exchange(keys, whole, task, site="kv_group", layers=[1])
    assert_single_carrier(found, "key/value group 1.1", 1, 1)


@pytest.mark.long
def test_sets_of_heads_add_one_head_after_the_other(tmp_path):
    whole = small_model(LAYOUT)
    broken = without_head(whole, "z", 1, 0)
    found = exchange(
        broken, whole, small_task("retrieval"), site="z", layers=[0, 1],
        sets=["together", "from_first", "from_last"], out=tmp_path,
    )  # fmt: skip
    effects = found.effects().query("direction == 'brings'").set_index("intervention")
    assert effects["share"].round(6).to_dict() == {
        "transplant:z,together,heads=0.0+0.1+1.0+1.1": 1,
        "transplant:z,from_first,heads=0.0": 0,
        "transplant:z,from_first,heads=0.0+0.1": 0,
        "transplant:z,from_first,heads=0.0+0.1+1.0": 1,
        "transplant:z,from_first,heads=0.0+0.1+1.0+1.1": 1,
        "transplant:z,from_last,heads=1.1": 0,
        "transplant:z,from_last,heads=1.0+1.1": 1,
        "transplant:z,from_last,heads=0.1+1.0+1.1": 1,
        "transplant:z,from_last,heads=0.0+0.1+1.0+1.1": 1,
    }
    last = effects.loc["transplant:z,from_last,heads=1.0+1.1"]
    assert (last["layer"], last["head"]) == (1, 0)
    assert (list(last["layers"]), list(last["heads"])) == ([1, 1], [0, 1])
    (again,) = lw.load(tmp_path)
    pd.testing.assert_frame_equal(found.effects(), again.effects())
    page = lw.report(again).html
    assert "0: 0 and 1; 1: 0 and 1 z (from the first on)" in page
    assert "Share of the gap in accuracy" not in page
    with pytest.raises(UserError, match="No head was exchanged alone"):
        again.plot()


def test_several_heads_of_a_layer_are_put_in_and_back():
    model, other = tiny_model("qwen2"), tiny_model("qwen2", seed=1)
    before = weights_hash(model)
    with use_donor_weights(model, other, "z", [1, 1], heads=[0, 3], t=0.5):
        middle = (model.blocks[1].attn.W_Q - other.blocks[1].attn.W_Q).abs().amax((1, 2))
    with use_donor_weights(model, other, "z", [1, 1], heads=[0, 3]):
        apart = (model.blocks[1].attn.W_Q - other.blocks[1].attn.W_Q).abs().amax((1, 2))
        assert (apart == 0).tolist() == [True, False, False, True]
    assert (middle > 0).all()
    assert weights_hash(model) == before


def test_distances_of_groups_add_up_to_those_of_what_they_have():
    model, other = tiny_model("qwen2"), tiny_model("qwen2", seed=1)
    table = pd.DataFrame(distances(model, other, "kv_group"))
    of = table.query("site == 'kv_group' and layer == 1")
    weights = ("W_Q", "b_Q", "_W_K", "_b_K", "_W_V", "_b_V", "W_O")
    mine, theirs = (m.blocks[1].attn for m in (model, other))
    gone = [(getattr(mine, w) - getattr(theirs, w)).detach() for w in weights]
    apart = sum(float(one.square().sum()) for one in gone)
    assert ((of["distance"] * of["norm"]) ** 2).sum() == pytest.approx(apart, rel=1e-5)
    assert list(of["head"]) == [0, 1]
    assert "kv_group" not in set(pd.DataFrame(distances(model, other))["site"])
