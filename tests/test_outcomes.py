"""Functions of the logits under interventions: engine, reference, and hooks written by hand."""

from __future__ import annotations

import pytest
import torch

import layerwise as lw
from layerwise.models.instance.kinds import hook_name, is_seq2seq, model_inputs
from layerwise.sweep import apply, intact, patch, resample, skip, together, zero
from layerwise.sweep.requests import LogLikelihood

from .models.decoder.tiny import tiny_decoder
from .models.seq2seq.tiny import tiny_seq2seq
from .models.tiny import tiny_model

CLEAN, CORRUPTED = (5, 17, 40, 9, 33), (5, 17, 41, 9, 33)
MODELS = ["llama", "gemma 2", "gpt-oss", "t5", "bart"]
SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"]
CROSS = ["resid_mid_cross", "cross_attn_out", "cross_z"]
# Nats, or units of logits, in float32.
CLOSE = 1e-4


def case_model(case):
    if case == "llama":
        return tiny_model(case)
    return tiny_seq2seq(case) if case in ("t5", "bart") else tiny_decoder(case)


def difference(logits):
    """Metric of a test: a logit difference at the last position, whichever logits it gets."""
    last = logits if logits.ndim == 1 else logits[-1]
    return last[7] - last[8]


def run_with_hooks(model, tokens, *hooks):
    """Logits of each position of a plain run with hooks."""
    with torch.inference_mode(), model.hooks(fwd_hooks=list(hooks)):
        return model(*model_inputs(model, [tokens]))[0].float()


def hand_patched(model, row):
    """Logits of the corrupted run with one activation of the clean one, by hooks alone."""
    name, kept = hook_name(model, row.layer, row.site), {}

    def keep(tensor, hook):
        kept["clean"] = tensor.clone()

    def put(tensor, hook):
        tensor = tensor.clone()
        head = [int(row.head)] if row.site.endswith("z") else []
        tensor[0, row.position, *head] = kept["clean"][0, row.position, *head]
        return tensor

    run_with_hooks(model, CLEAN, (name, keep))
    return run_with_hooks(model, CORRUPTED, (name, put))


@pytest.mark.long(but=["llama", "t5"])
@pytest.mark.parametrize("case", MODELS)
def test_engine_and_reference_and_hooks_by_hand_give_the_same_patches(case):
    model = case_model(case)
    sites = [*SITES, *CROSS] if is_seq2seq(model) else SITES
    fast = lw.patch(model, CLEAN, CORRUPTED, metric=difference, sites=sites)
    slow = lw.patch(model, CLEAN, CORRUPTED, metric=difference, sites=sites, logits="all")
    keys = ["site", "layer", "head", "position", "token"]
    assert fast[keys].equals(slow[keys])
    for name in ("clean", "corrupted", "patched"):
        assert (fast[name] - slow[name]).abs().max() < CLOSE
    assert set(fast["site"]) == {*sites}
    assert fast["clean"].nunique() == fast["corrupted"].nunique() == 1
    clean, corrupted = (float(difference(run_with_hooks(model, one))) for one in (CLEAN, CORRUPTED))
    assert fast["clean"].iloc[0] == pytest.approx(clean, abs=CLOSE)
    assert fast["corrupted"].iloc[0] == pytest.approx(corrupted, abs=CLOSE)
    for row in fast.iloc[:: max(1, len(fast) // 25)].itertuples():
        by_hand = float(difference(hand_patched(model, row)))
        assert row.patched == pytest.approx(by_hand, abs=CLOSE)
    assert (fast["patched"] - fast["corrupted"]).abs().max() > 100 * CLOSE


@pytest.mark.parametrize("case", ["llama", "t5"])
def test_any_metric_of_the_logits_is_measured(case):
    model = case_model(case)
    clean = run_with_hooks(model, CLEAN)[-1].log_softmax(-1)

    def kl(logits):
        return (clean.exp() * (clean - logits.log_softmax(-1))).sum()

    def probability(logits):
        return logits.softmax(-1)[7].item()

    for metric in (kl, probability, lambda logits: int(logits.argmax())):
        table = lw.patch(model, CLEAN, CORRUPTED, metric=metric, layers=[1], sites=["mlp_out"])
        assert table["clean"].iloc[0] == pytest.approx(float(metric(clean)), abs=CLOSE)
        for row in table.itertuples():
            by_hand = float(metric(hand_patched(model, row)[-1]))
            assert row.patched == pytest.approx(by_hand, abs=CLOSE)


def test_a_metric_of_all_positions_gets_them():
    model = tiny_model("llama")
    table = lw.patch(
        model, CLEAN, CORRUPTED, metric=lambda logits: logits[3, 7] + len(logits),
        sites="resid_post", layers=[0], positions=[-2, 2], logits="all",
    )  # fmt: skip
    assert table["position"].tolist() == [2, 3]
    for row in table.itertuples():
        expected = float(hand_patched(model, row)[3, 7]) + len(CLEAN)
        assert row.patched == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("case", ["llama", "bart"])
def test_patches_are_those_of_the_grid(case):
    model = case_model(case)
    table = lw.patch(model, CLEAN, CORRUPTED, metric=difference)
    grid = lw.patch_grid(model, CLEAN, CORRUPTED, 7, 8, positions="all").table
    both = table.merge(grid, on=["layer", "position"])
    assert len(both) == len(table) == len(grid)
    assert both["patched"].tolist() == pytest.approx(both["logit_difference"].tolist(), abs=CLOSE)


def test_the_last_stream_brings_the_whole_clean_run_back():
    model = tiny_model("llama")
    last = model.cfg.n_layers - 1
    table = lw.patch(
        model, CLEAN, CORRUPTED, metric=difference, sites="resid_post", layers=[last],
        positions=[-1],
    )  # fmt: skip
    assert table["patched"].tolist() == pytest.approx(table["clean"].tolist(), abs=CLOSE)
    assert table["token"].tolist() == lw.lens_grid(model, CLEAN).table["token"].tolist()[4:5]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"corrupted": (5, 17, 40, 9)}, "has 5 tokens and the corrupted one 4: expected as many"),
        ({"corrupted": CLEAN}, "Both prompts are the same"),
        ({"metric": lambda logits: logits}, "gave a tensor of shape .304.: expected one number"),
        ({"metric": lambda logits: None}, "The function in 'metric' gave None"),
        ({"metric": lambda logits: logits[7] > 0}, "expected one number"),
        ({"sites": ["pattern"]}, "Unknown site to patch 'pattern'"),
        ({"sites": "cross_z"}, "nothing to patch at cross_z"),
        ({"positions": [5]}, "There is no position 5: expected some of 0 to 4"),
        ({"layers": [3]}, "Layer 3 is out of range"),
        ({"logits": "some"}, "Unknown logits 'some'"),
    ],
)
def test_what_cannot_be_patched_is_refused_in_a_sentence(change, says):
    given = {"clean": CLEAN, "corrupted": CORRUPTED, "metric": difference}
    with pytest.raises(lw.UserError, match=says):
        lw.patch(tiny_model("llama"), **given | change)


def test_an_error_of_a_metric_is_the_users_own():
    with pytest.raises(IndexError):
        lw.patch(tiny_model("llama"), CLEAN, CORRUPTED, metric=lambda logits: logits[10**6])


@pytest.mark.parametrize("case", ["llama", "gemma 2", "bart"])
def test_outcomes_under_interventions_are_those_of_a_sweep(case):
    model = case_model(case)
    changes = [intact(), skip(1), zero("z", 0, 1), together([skip(1), zero("mlp_out", 0)])]
    table = lw.intervene(model, CLEAN, changes, outcome=difference)
    slow = lw.intervene(model, CLEAN, changes, outcome=difference, logits="all")
    requests = [LogLikelihood(CLEAN, (token,)) for token in (7, 8)]
    swept = lw.sweep.sweep(model, changes, requests).outcomes
    expected = [right.logprob - wrong.logprob for right, wrong in swept]
    assert table["outcome"].tolist() == pytest.approx(expected, abs=CLOSE)
    assert slow["outcome"].tolist() == pytest.approx(expected, abs=CLOSE)
    assert table["intervention"].tolist() == [change.id for change in changes]
    assert table["layer"].isna().tolist() == [True, False, False, False]
    assert len(set(table["outcome"].round(3))) == len(changes)


def test_texts_and_sources_of_interventions_are_read():
    model = tiny_model("llama")
    changes = [resample("resid_pre", 1), resample("mlp_out", 0)]
    texts = ["the red door", "the blue key"]
    table = lw.intervene(model, texts, changes, outcome=difference, source="the red key")
    assert table["prompt"].tolist() == [0, 0, 1, 1]
    one = lw.intervene(model, texts[1], changes, outcome=difference, source="the red key")
    assert table["outcome"].tolist()[2:] == pytest.approx(one["outcome"].tolist(), abs=CLOSE)
    with pytest.raises(lw.UserError, match="no source run"):
        lw.intervene(model, "the red door", changes, outcome=difference)
    patched = lw.patch(model, CLEAN, CORRUPTED, metric=difference, layers=[1], positions=[2])
    own = patch("resid_pre", 1, 2)
    table = lw.intervene(model, CORRUPTED, own, outcome=difference, source=CLEAN)
    assert table["outcome"].tolist() == pytest.approx(patched["patched"].tolist(), abs=CLOSE)


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("site", ["mlp_out", "z"])
def test_a_function_of_a_site_is_an_intervention_by_hooks(case, site):
    model = case_model(case)
    layer = model.cfg.n_layers - 1
    seen = []

    def flip_the_last(tensor):
        seen.append(tensor.shape)
        tensor[-1] = tensor[-1].flip(-1)
        return tensor

    def by_hand(tensor, hook):
        tensor = tensor.clone()
        tensor[0, -1] = tensor[0, -1].flip(-1)
        return tensor

    change = apply(site, layer, flip_the_last)
    table = lw.intervene(model, CLEAN, [change, intact()], outcome=difference)
    logits = run_with_hooks(model, CLEAN, (hook_name(model, layer, site), by_hand))
    assert table["outcome"].iloc[0] == pytest.approx(float(difference(logits)), abs=CLOSE)
    assert (logits - run_with_hooks(model, CLEAN)).abs().max() > 100 * CLOSE
    assert change.id == f"apply:{site},layer={layer},flip_the_last"
    assert seen[0][1:] == ((model.cfg.d_model,) if site == "mlp_out" else seen[0][1:])
    assert len(seen[0]) == (2 if site == "mlp_out" else 3)


def test_a_function_that_zeroes_is_zeroing_and_can_be_put_together():
    model = tiny_model("llama")
    own = apply("attn_out", 1, torch.zeros_like, name="zeroed")
    changes = [own, zero("attn_out", 1), together([own, skip(0)]), together([zero("attn_out", 1),
               skip(0)])]  # fmt: skip
    values = lw.intervene(model, CLEAN, changes, outcome=difference)["outcome"].tolist()
    assert values[0] == pytest.approx(values[1], abs=CLOSE)
    assert values[2] == pytest.approx(values[3], abs=CLOSE)


def test_a_function_takes_the_reference_in_a_sweep_too():
    model = tiny_model("llama")
    own, requests = apply("mlp_out", 1, torch.zeros_like), [LogLikelihood(CLEAN, (7,))]
    with pytest.raises(lw.UserError, match="runs a function of yours, which the engine does not"):
        lw.sweep.sweep(model, [own], requests)
    slow = lw.sweep.sweep(model, [own], requests, method="reference").outcomes[0][0]
    fast = lw.sweep.sweep(model, [zero("mlp_out", 1)], requests).outcomes[0][0]
    assert slow.logprob == pytest.approx(fast.logprob, abs=CLOSE)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x[:1], r"gave \[1, 48\]: expected a tensor of the shape .* \[5, 48\]"),
        (lambda x: None, "gave NoneType: expected a tensor"),
    ],
)
def test_a_function_that_gives_another_shape_is_refused(function, says):
    with pytest.raises(lw.UserError, match=says):
        lw.intervene(tiny_model("llama"), CLEAN, apply("mlp_out", 1, function), outcome=difference)


def test_functions_of_no_site_or_layer_are_refused():
    with pytest.raises(lw.UserError, match="Unknown site 'mlp'"):
        apply("mlp", 1, torch.zeros_like)
    with pytest.raises(lw.UserError, match="Layer 9 of intervention 'apply:mlp_out,layer=9"):
        lw.intervene(
            tiny_model("llama"), CLEAN, [apply("mlp_out", 9, torch.zeros_like)], outcome=difference
        )
