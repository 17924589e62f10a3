"""Layers of one model in another: exact, found where they were planted, and put back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.analyses.transplant.exchange.parts import head_parts
from layerwise.analyses.transplant.exchange.weights import distances, use_donor_weights
from layerwise.errors import UserError
from layerwise.models.instance.facts import weights_hash
from layerwise.models.instance.kinds import model_blocks
from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.presentation.rows import rows
from layerwise.report.html import findings
from layerwise.sweep import intact, sweep
from tests.analysis import word_task
from tests.cases import LONG, in_long_runs
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_folder, tiny_model, tiny_tokenizer
from tests.planted import small_model, small_task
from tests.planted_seq2seq import small_seq2seq
from tests.transplanting import (
    LAYOUT,
    assert_answers_equal,
    assert_single_carrier,
    exchange,
    silence_parts,
    word_requests,
)  # fmt: skip

SMALL_SEQ2SEQ = WiredSeq2SeqLayout(
    n_encoder_layers=4, n_decoder_layers=3, encoder_heads=2, decoder_heads=2,
    previous=Spot(0, 1), look_up=Spot(1, 0), facts=Spot(2, 1), second_hop=Spot(3, 0),
    begin=Spot(4, 1), copy=Spot(5, 0), say=6,
)  # fmt: skip


def merge_part(host: Any, donor: Any, layer: int, prefixes: tuple[str, ...]) -> Any:
    """A copy of the host that really has the donor's part of a layer, by names of weights."""
    merged = copy.deepcopy(host)
    begins = tuple(f"blocks.{layer}.{prefix}" for prefix in prefixes)
    given = {k: v for k, v in donor.state_dict().items() if k.startswith(begins)}
    assert given
    merged.load_state_dict(host.state_dict() | given)
    return merged


PARTS = {
    "layer": ("",),
    "attn_out": ("attn.", "ln1."),
    "mlp_out": ("mlp.", "ln2."),
}


@pytest.mark.parametrize(("family", "site"), [("llama", "layer"), ("gpt2", "attn_out"),
                                              ("llama", "mlp_out")])  # fmt: skip
def test_answers_are_those_of_a_model_that_really_has_the_layer(family, site):
    model, other = tiny_model(family), tiny_model(family, seed=1)
    asked = word_requests(model, ["continuation"], 3)
    for host, donor in ((model, other), (other, model)):
        merged = merge_part(host, donor, 1, PARTS[site])
        (plain,) = sweep(merged, [intact()], asked, method="reference").outcomes
        with use_donor_weights(host, donor, site, [1]):
            (found,) = sweep(host, [intact()], asked).outcomes
        assert_answers_equal(found, plain)


@pytest.mark.parametrize("kind", ["gpt2", "t5", *in_long_runs(("bart",))])
def test_texts_are_those_of_the_weights_between_two_models_token_for_token(kind):
    model = tiny_model(kind) if kind == "gpt2" else tiny_seq2seq(kind)
    other, layer = copy.deepcopy(model), model.cfg.n_layers - 1
    merged, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    both = (parts_of_block(m, model_blocks(m)[layer])["layer"] for m in (other, merged))
    with torch.no_grad():
        for weight, between in zip(*both, strict=True):
            step = 0.3 * torch.randn(weight.shape, generator=generator)
            weight.add_(step)
            between.add_(0.25 * step)
    asked = word_requests(model)
    (plain,) = sweep(merged, [intact()], asked, method="reference").outcomes
    with use_donor_weights(model, other, "layer", [layer], 0.25):
        (found,) = sweep(model, [intact()], asked).outcomes
    assert_answers_equal(found, plain)


def assert_models_swap_answers(result: Any, layer: int) -> None:
    """With that layer each model answers as the other one does."""
    table = result.transplant
    for host, beside in (("base", "other"), ("other", "base")):
        changed = table.loc[(table["host"] == host) & (table["layer"] == layer)]
        plain = table.loc[(table["host"] == beside) & (table["kind"] == "intact")]
        joined = changed.merge(plain, on=["task", "item", "protocol"], validate="1:1")
        assert len(joined) == len(changed)
        np.testing.assert_allclose(joined["gold_logprob_x"], joined["gold_logprob_y"], atol=1e-4)
        assert joined["generated_x"].fillna("").equals(joined["generated_y"].fillna(""))


# The tables of either direction are in test_transplant_tables.
@pytest.mark.long
@pytest.mark.parametrize("better", ["other", *in_long_runs(("base",))])
def test_the_layer_in_which_two_decoders_differ_is_found_in_both_directions(better):
    whole = small_model(LAYOUT)
    broken = silence_parts(whole, (LAYOUT.look_up.layer, "attn_out"))
    pair = (broken, whole) if better == "other" else (whole, broken)
    tasks = [small_task("retrieval"), small_task("knowledge")]
    protocols = ["continuation", "generate"] if better == "other" else ["continuation"]
    result = exchange(*pair, tasks, protocols)
    gaps = result.gaps().set_index(["task", "protocol"])["found"]
    assert gaps["wired-lookup"].all()
    assert not gaps["wired-facts"].any()
    assert set(result.gaps().query("found")["better"]) == {better}
    assert set(result.effects()["task"]) == {"wired-lookup"}
    assert_single_carrier(result, "layer 1", LAYOUT.look_up.layer)
    assert_models_swap_answers(result, LAYOUT.look_up.layer)
    (none,) = (one for one in findings([result]) if "no gap to move" in one.full)
    assert "the base is right in 100 %, the other model in 100 %" in none.full


@pytest.mark.long
def test_the_part_in_which_two_decoders_differ_is_found_and_the_other_part_moves_nothing():
    whole = small_model(LAYOUT)
    broken = silence_parts(whole, (LAYOUT.facts.layer, "mlp_out"))
    task = small_task("knowledge")
    found = exchange(broken, whole, task, site="mlp_out")
    assert_single_carrier(found, "MLP of layer 2", LAYOUT.facts.layer)
    attention = exchange(broken, whole, task, site="attn_out")
    assert attention.effects()["moved"].eq(0).all()
    told = [one.full for one in findings([attention])]
    assert any("exchanges is established to move" in one for one in told)


@pytest.mark.long
def test_the_layer_in_which_two_encoder_decoders_differ_is_found_in_both_directions():
    whole = small_seq2seq(SMALL_SEQ2SEQ)
    broken = silence_parts(whole, (SMALL_SEQ2SEQ.copy.layer, "cross_attn_out"))
    task, at = small_task("retrieval"), SMALL_SEQ2SEQ.copy.layer
    found = exchange(broken, whole, task, site="cross_attn_out")
    assert_single_carrier(found, "cross-attention of layer decoder.1", at)
    assert_models_swap_answers(found, at)
    result = exchange(broken, whole, task, layers=["encoder.1", "decoder.1"])
    effects = result.effects()
    assert (effects["share"].round(6) == (effects["layer"] == at)).all()
    assert any("lies in layer decoder.1." in one.full for one in findings([result]))


@pytest.mark.long
def test_of_the_same_weights_nothing_is_exchanged_and_nothing_said():
    model = small_model(LAYOUT)
    result = exchange(model, copy.deepcopy(model), small_task("retrieval"))
    assert not result.gaps()["found"].any()
    assert result.effects().empty
    assert result.ranks().empty
    assert "transplant" not in set(result.transplant["kind"])
    assert set(result.transplant["kind"]) >= {"intact", "blind", "no layers"}
    assert result.transplant_distances["distance"].fillna(0).eq(0).all()
    (only,) = [one.full for one in findings([result]) if one.kind == "transplant"]
    assert "There is no gap to move" in only
    with pytest.raises(UserError, match="Nothing was exchanged"):
        result.plot()


def test_weights_are_put_back_whatever_happens():
    other = small_model(LAYOUT)
    model = silence_parts(other, (1, "attn_out"))
    before = [weights_hash(one) for one in (model, other)]
    places = [weight.data_ptr() for weight in model.parameters()]
    exchange(model, other, small_task("retrieval"), layers=[1], steps=2)

    with use_donor_weights(model, other, "layer", [1, 2], 0.5):
        assert weights_hash(model) != before[0]
    with (
        pytest.raises(RuntimeError, match="stopped"),
        use_donor_weights(model, other, "layer", [1]),
    ):
        raise RuntimeError("stopped")
    assert [weights_hash(one) for one in (model, other)] == before
    assert [weight.data_ptr() for weight in model.parameters()] == places


def test_parts_of_a_layer_are_all_of_it_and_do_not_overlap():
    for model in (tiny_model("llama"), tiny_model("gpt2"), tiny_seq2seq("t5")):
        for block in model_blocks(model):
            whole, *parts = parts_of_block(model, block).values()
            ids = [id(weight) for of in parts for weight in of]
            assert sorted(ids) == sorted(map(id, whole))
            assert len(set(ids)) == len(ids)


def test_distances_are_relative_norms_and_cover_every_weight_once():
    model, other = tiny_model("gpt2"), tiny_model("gpt2", seed=1)
    table = pd.DataFrame(distances(model, other))
    mine, theirs = model.state_dict(), other.state_dict()
    row = table.loc[(table["site"] == "mlp_out") & (table["layer"] == 1)].iloc[0]
    names = [k for k in mine if k.startswith(("blocks.1.mlp.", "blocks.1.ln2."))]
    names = [name for name in names if name in dict(model.named_parameters())]
    apart = sum(float((mine[k] - theirs[k]).square().sum()) for k in names)
    size = sum(float(mine[k].square().sum()) for k in names)
    assert row["distance"] == pytest.approx((apart / size) ** 0.5, rel=1e-5)
    counted = table.loc[table["site"].isin(["layer", "outside"]), "n_parameters"].sum()
    assert counted == sum(weight.numel() for weight in model.parameters())
    assert "embed.W_E" in set(table["part"])


def other_words(folder: Path) -> Any:
    written = tiny_folder(folder, "llama")
    tiny_tokenizer(vocab_size=290).save_pretrained(written)
    return lw.load_model(written)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda _: tiny_seq2seq("t5"), "the kind of model is decoder-only in the base and an enc"),
        (lambda _: tiny_model("gpt2"), "the setting original_architecture is 'LlamaFor"),
        (lambda _: tiny_model("llama", num_hidden_layers=2), "setting n_layers is 3 in the base"),
        (lambda _: copy.deepcopy(tiny_model("llama")).to(torch.bfloat16), "bfloat16"),
        (lambda _: tiny_model("llama", hidden_size=64), "the setting d_model is 48 in the base"),
        (other_words, "the token "),
    ],
    ids=["kind", "family", "layers", "number format", "size", "vocabulary"],
)
def test_models_that_do_not_fit_are_refused_with_the_difference_named(other, named, tmp_path):
    with pytest.raises(UserError, match="do not fit into the base") as caught:
        exchange(tiny_model("llama"), other(tmp_path), word_task())
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        ("llama", {"site": "cross_attn_out"}, "has no part 'cross_attn_out': expected .*mlp"),
        ("llama", {"site": "pattern"}, "Unknown part .* 'pattern'"),
        ("llama", {"steps": 0}, "number of steps is 0"),
        ("llama", {"sets": "pairs"}, "Unknown choice of layers 'pairs'"),
        ("llama", {"site": "norms", "exchange": "activations"}, "asked for at site 'norms', which"),
        ("llama", {"exchange": "weight"}, "Unknown exchange 'weight'"),
        ("qwen2", {"site": "kv_group", "heads": [2]}, "2 is out of range: .* groups 0 to"),
        ("qwen2", {"heads": [0]}, "Heads were named for site 'layer', which has none"),
        ("qwen2", {"site": "cross_z"}, "no part 'cross_z': expected .*, z, kv_group"),
        ("qwen3", {"site": "embed", "layers": [0]}, "'embed' is of no layer, but layers or sets"),
        ("qwen3", {"site": "embed", "sets": ["from_first"]}, "'embed' is of no layer, but"),
        ("qwen3", {"site": "rel_pos"}, "the model has no 'rel_pos': expected one of embed, ln_"),
        ("gpt2", {"site": "unembed"}, "moving one moves the other: expected site 'embed'"),
        ("llama", {"greedy": 4}, r"4 layers were to be chosen .* expected 0 \(none\) to 3"),
        ("llama", {"greedy": 1, "exchange": "activations"}, "an exchange of weights"),
        ("llama", {"greedy": 1, "held_out": 0}, "more than 0 and less than 1"),
        ("llama", {"held_out": 0.25}, "held out .0.25., and no layers chosen.*: expected both"),
        ("llama", {"held_out": 0.5}, "held out .0.5., and no layers chosen"),
    ],
    ids=str,
)
def test_what_cannot_be_exchanged_is_refused(family, options, says):
    model = tiny_model(family)
    with pytest.raises(UserError, match=says):
        exchange(model, model, word_task(), **options)


def shares(result: Any, what: str, direction: str = "brings") -> list[float]:
    effects = rows(result.effects(), exchange=what, direction=direction)
    return list(effects.sort_values(by="layer")["share"].round(6))


@pytest.mark.long
def test_weights_bring_it_at_their_layer_and_streams_from_there_on(tmp_path):
    pair = small_model(LAYOUT), silence_parts(small_model(LAYOUT), (1, "attn_out"))
    found = exchange(
        *pair, small_task("retrieval"), layers=[0, 1, 2],
        exchange=["weights", "activations"], out=tmp_path,
    )  # fmt: skip
    for direction in ("brings", "destroys"):
        assert shares(found, "weights", direction) == [0, 1, 0]
        assert shares(found, "activations", direction) == [0, 1, 1]
    told = [one.full for one in findings([found])]
    (stream,) = [text for text in told if "residual stream" in text]
    assert stream.startswith("With the residual stream after layer 1 of")
    assert "The weights of that layer alone bring 79 [" in stream
    assert any("lies in layer 1." in text for text in told)
    assert found.ranks()["n_layers"].eq(3).all()
    (again,) = lw.load(tmp_path)
    pd.testing.assert_frame_equal(found.effects(), again.effects())


@pytest.mark.long
def test_a_layer_that_works_on_what_an_earlier_one_found_does_not_bring_it_by_weights():
    """Two links of a chain are missing: the first works in the host, the second on it alone."""
    whole = small_model(LAYOUT)
    broken = silence_parts(whole, (0, "attn_out"), (1, "attn_out"))
    found = exchange(
        broken, whole, small_task("retrieval"), layers=[0, 1, 2],
        exchange=["weights", "activations"],
    )  # fmt: skip
    assert shares(found, "weights") == [0, 0, 0]
    assert shares(found, "activations") == [0, 1, 1]
    (stream,) = [o.full for o in findings([found]) if "residual stream" in o.full]
    assert "bring 0 [" in stream
    assert "it may be what reaches the layer" in stream


@pytest.mark.long
def test_texts_under_activations_are_those_of_the_other_model():
    whole, broken = small_model(LAYOUT), silence_parts(small_model(LAYOUT), (2, "mlp_out"))
    task, protocols = small_task("knowledge"), ["generate", "continuation"][: 1 + LONG]
    found = exchange(
        broken, whole, task, protocols, site="mlp_out", layers=[1, 2], exchange="activations",
    )  # fmt: skip
    assert found.gaps()["found"].all()
    for protocol in protocols:
        of = rows(found.effects(), protocol=protocol, direction="brings")
        assert list(of["share"].round(6)) == [0, 1]
    told, *_ = [o.full for o in findings([found]) if o.kind == "transplant"]
    assert "lies in the MLP output of layer 2." in told
    table = found.transplant.query("protocol == 'generate' and layer == 2 and host == 'base'")
    plain = found.transplant.query("protocol == 'generate' and kind == 'intact'")
    texts = plain.loc[plain["host"] == "other"].set_index("item")["generated"]
    assert table.set_index("item")["generated"].equals(texts.loc[table["item"]])


@pytest.mark.long
def test_the_output_of_a_head_is_found_and_its_siblings_move_nothing():
    whole = small_model(LAYOUT)
    broken = copy.deepcopy(whole)
    with torch.no_grad():
        for part in head_parts(broken, model_blocks(broken)[1], "z", 0)[-4:]:
            part.view(part.weight).mul_(1e-6)  # its keys and values
    found = exchange(
        broken, whole, small_task("retrieval"), site="z", layers=[1], exchange="activations"
    )
    assert list(found.effects().query("direction == 'brings'")["share"]) == [1, 0]
    (told,) = [o.full for o in findings([found]) if o.kind == "transplant"]
    assert "lies in the output of head 1.0." in told
