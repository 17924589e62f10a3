"""Claims on what restored states bring back: made-up tables, and whole runs of small models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import layerwise as lw
from analyses.validity import published_claims as made_up
from layerwise.analyses.replication.api import select_claims
from layerwise.analyses.replication.claims.geva import attention_lies_behind_mlps
from layerwise.analyses.replication.claims.meng import middle_mlps_recall
from layerwise.analyses.replication.verdicts.claim import ClaimTest, NoTest, Verdict
from layerwise.analyses.replication.verdicts.evidence import Evidence
from layerwise.analyses.replication.verdicts.judge import judge
from layerwise.analyses.replication.verdicts.restored import Restored
from layerwise.models.organisms.wired import wired_model
from layerwise.models.organisms.wired_seq2seq.model import wired_seq2seq_model
from layerwise.results import PatchingResult, ReplicationResult
from layerwise.stats.contrasts import layer_weights, ratio_contrast
from layerwise.stats.items.clusters import Clusters
from tests.models.tiny import tiny_model

CLAIMS = ("meng-1", "geva-1")
MLP, LAST = ("mlp_out", "last changed"), ("attn_out", "last")
LOW = made_up.flat(0.02)


def table_of(
    mlps: np.ndarray, attention: np.ndarray = LOW, last: np.ndarray = LOW, n: int = 24
) -> pd.DataFrame:
    """A table of patching of a model of which so much comes back."""
    world = made_up.PairWorld("a model", mlps, attention, last, {}, n)
    return made_up.made_up_pairs(np.random.default_rng(0), world)


def evidence_of(table: pd.DataFrame) -> Evidence:
    """The evidence of a table of patching."""
    return Evidence.from_cells([], lambda *_: 0.25, made_up.N_LAYERS, {"patching": table})


def verdicts(table: pd.DataFrame) -> dict[str, str]:
    """Verdicts on both claims."""
    found = judge(select_claims(CLAIMS), evidence_of(table))["verdicts"]
    return dict(zip(found["claim"], found["verdict"], strict=True))


@pytest.mark.parametrize(
    ("middle", "verdict"), [(11, Verdict.HOLDS), (3, Verdict.OPPOSITE), (20, Verdict.OPPOSITE)]
)
def test_facts_come_back_in_mlps_of_some_third(middle, verdict):
    assert verdicts(table_of(made_up.peak(middle, size=0.4)))["meng-1"] == verdict


def test_a_first_mlp_that_tells_tokens_apart_is_no_recall():
    """It brings the whole subject back, whatever the layers behind it do."""
    first = np.zeros(made_up.N_LAYERS)
    first[0] = 1.0
    table = table_of(made_up.peak(11, size=0.05) + first, last=made_up.peak(16, size=0.3))
    assert verdicts(table)["meng-1"] == Verdict.OPEN
    (found,) = attention_lies_behind_mlps(evidence_of(table))
    assert isinstance(found, ClaimTest)
    assert found.estimate.estimate < 10  # from layer 11, not from layer 0


def test_attention_that_brings_back_as_much_as_mlps_leaves_it_open():
    bump = made_up.peak(11, size=0.4)
    assert verdicts(table_of(bump, attention=bump))["meng-1"] == Verdict.OPEN
    found = evidence_of(table_of(bump, attention=2 * bump))
    (test,) = middle_mlps_recall(found)
    assert isinstance(test, ClaimTest)
    assert test.p_holds > 0.99
    assert test.estimate.estimate < 0


@pytest.mark.parametrize(
    ("mlps", "attention", "verdict"),
    [(6, 16, Verdict.HOLDS), (16, 6, Verdict.OPPOSITE), (8, 8, Verdict.OPEN)],
)
def test_mlps_before_or_behind_attention(mlps, attention, verdict):
    table = table_of(made_up.peak(mlps, size=0.3), last=made_up.peak(attention, size=0.3), n=40)
    assert verdicts(table)["geva-1"] == verdict
    (found,) = attention_lies_behind_mlps(evidence_of(table))
    assert isinstance(found, ClaimTest)
    assert found.estimate.estimate == pytest.approx(attention - mlps, abs=1.5)


def test_a_side_that_brings_nothing_back_has_no_depth():
    none = np.zeros(made_up.N_LAYERS)
    assert verdicts(table_of(made_up.peak(6), last=none))["geva-1"] == Verdict.OPEN
    (found,) = attention_lies_behind_mlps(evidence_of(table_of(-made_up.peak(6), last=none)))
    assert isinstance(found, ClaimTest)
    assert found.p_holds == found.p_opposite == 1.0
    assert "bring nothing back" in found.note


def test_no_pair_with_signal_is_no_verdict():
    assert set(verdicts(table_of(LOW).iloc[:0]).values()) == {Verdict.NO_SIGNAL}
    without = Evidence.from_cells([], lambda *_: 0.25, made_up.N_LAYERS)
    assert isinstance(Restored.from_evidence(without, (MLP,)), NoTest)


def test_pairs_without_a_token_behind_what_differs_are_left_out():
    table = table_of(made_up.peak(6), n=12)
    short = table.loc[(table["item"] != "3") | (table["pos_label"] != "last")]
    restored = Restored.from_evidence(evidence_of(short), (MLP, LAST))
    assert isinstance(restored, Restored)
    assert len(restored.whole) == 11
    nowhere = table.loc[table["pos_label"] == "last"]
    reason = Restored.from_evidence(evidence_of(nowhere), (MLP, LAST))
    assert isinstance(reason, NoTest)
    assert reason.verdict == Verdict.NOT_ASKED


def test_the_share_of_the_way_is_what_pandas_makes_of_the_table():
    table = table_of(made_up.peak(6, size=0.3), n=12)
    restored = Restored.from_evidence(evidence_of(table), (MLP,))
    assert isinstance(restored, Restored)
    found = restored.share(MLP, layer_weights(np.arange(made_up.N_LAYERS), [5, 6]))
    own = table.loc[(table["site"] == "mlp_out") & table["layer"].isin([5, 6])]
    gain = (own["patched_diff"] - own["corrupted_diff"]).groupby(own["item"]).mean()
    whole = (own["clean_diff"] - own["corrupted_diff"]).groupby(own["item"]).mean()
    assert found.estimate == pytest.approx(gain.sum() / whole.sum())
    assert found.n == 6  # two pairs ask for the same


def test_the_error_of_a_ratio_is_that_of_the_jackknife():
    rng = np.random.default_rng(0)
    whole = np.exp(0.5 * rng.standard_normal(60))
    part = whole * (0.3 + 0.2 * rng.standard_normal(60))
    clusters = Clusters.from_labels([str(i // 2) for i in range(60)])
    contrast = ratio_contrast(part, whole, clusters)
    kept = [clusters.codes != code for code in range(30)]
    left_out = np.array([part[some].sum() / whole[some].sum() for some in kept])
    spread = np.sqrt(29 / 30 * ((left_out - left_out.mean()) ** 2).sum())
    assert contrast.error == pytest.approx(spread, rel=0.05)


@pytest.fixture(scope="module")
def recalled(tmp_path_factory):
    """All results of a wired model, which recalls facts at the last token alone."""
    out = tmp_path_factory.mktemp("runs") / "recalled"
    lw.replicate(wired_model(), CLAIMS, limit=24, out=out, progress=False)
    return lw.load(out)


@pytest.mark.long
def test_a_model_that_recalls_at_the_last_token_gets_neither_verdict(recalled):
    """Its MLPs do nothing where the subject stands, and layer 4 alone reads it at the end."""
    replication = next(r for r in recalled if isinstance(r, ReplicationResult))
    told = replication.verdicts.set_index("claim")["verdict"].to_dict()
    assert told == dict.fromkeys(CLAIMS, Verdict.OPEN)
    numbers = replication.verdict_numbers.query("claim == 'meng-1'")["estimate"]
    assert float(np.abs(numbers).max()) == pytest.approx(0, abs=1e-6)
    patching = next(r for r in recalled if isinstance(r, PatchingResult)).patching
    assert set(patching["pos_label"]) == {"last changed", "last"}
    attention = patching.loc[(patching["site"] == "attn_out") & (patching["pos_label"] == "last")]
    recovered = attention.groupby("layer")["recovered"].mean()
    assert recovered.idxmax() == 4


def test_a_model_that_solves_no_pair_gets_no_verdict():
    result = lw.replicate(tiny_model("gpt2", n_layer=6), CLAIMS, limit=8, fewshot=0, progress=False)
    assert set(result.verdicts["verdict"]) == {Verdict.NO_SIGNAL}


def test_a_model_with_an_encoder_cannot_be_asked():
    result = lw.replicate(wired_seq2seq_model(), ["meng-1"], limit=8, progress=False)
    assert result.verdicts["verdict"].tolist() == [Verdict.NOT_ASKED]
    (note,) = result.verdicts["note"].tolist()
    assert "expected a decoder-only model" in note
