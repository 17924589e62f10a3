"""Each further command from end to end, on a toy model whose answers are known."""

from __future__ import annotations

import os

import pandas as pd
import pytest

import layerwise as lw
from layerwise.planning.plan import plan_run
from layerwise.tasks import task_names
from tests.cases import in_long_runs
from tests.commands import run_cleanly

MODEL = "organism-decoder"
LOOKUP = ["--task", "organism-lookup", "--limit", 20]


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def only_result(folder: str = "run"):
    (result,) = lw.load(folder)
    return result


def test_a_lens_is_trained_and_read_with():
    said = run_cleanly("train-lens", MODEL, *LOOKUP, "--kind", "bias", "--texts", 40, "--steps", 5,
                "--out", "trained")  # fmt: skip
    assert "lower by (nats)" in said
    assert set(only_result("trained").tuned_lens["kind"]) == {"bias"}
    reading = [*LOOKUP, "--protocol", "continuation", "--lens", "tuned", "--tuned"]
    run_cleanly("lens", MODEL, *reading, "trained", "--out", "by_folder")
    run_cleanly("lens", MODEL, *reading, "trained/tuned_lens.safetensors", "--out", "by_file")
    read = only_result("by_folder").lens
    assert set(read["lens"]) == {"tuned"}
    pd.testing.assert_frame_equal(read, only_result("by_file").lens)


@pytest.mark.long
def test_a_lens_is_read_at_sites_and_positions_and_over_texts():
    base = ["lens", MODEL, *LOOKUP]
    said = run_cleanly(*base, "--protocol", "letter", "--site", "resid_pre", "--site", "resid_mid",
                "--positions", "-3,-1", "--out", "run")  # fmt: skip
    read = only_result().lens
    assert set(read["site"]) == {"resid_pre", "resid_mid"}
    assert set(read["pos"]) == {-3, -1}
    assert "resid_mid" in said
    run_cleanly(*base, "--protocol", "continuation", "--positions", "all", "--out", "all")
    assert set(only_result("all").lens["pos"]) == set(range(-28, 0))
    run_cleanly(*base, "--over", "generated", "--out", "texts")
    (protocol,) = set(only_result("texts").lens["protocol"])
    assert protocol == "generate"


def test_attribution():
    said = run_cleanly("attribution", MODEL, *LOOKUP, "--against", "best", "--out", "run")
    table = only_result().summary()
    found = table.loc[(table["component"] == "layer") & (table["metric"] == "logit_diff")]
    assert int(found.loc[found["value"].idxmax(), "layer"]) == 3
    assert only_result().facts.settings["against"] == "best"
    assert "adds (nats)" in said


def test_heads():
    said = run_cleanly(
        "heads", MODEL, "--sequences", 5, "--length", 12, "--threshold", 0.3, "--out", "h"
    )
    result = only_result("h")
    assert (result.heads["sequence"].nunique(), result.threshold) == (5, 0.3)
    scores = result.summary()
    assert int(scores.loc[scores["prefix_matching"].idxmax(), "layer"]) == 4
    assert "5 sequences of 12 random tokens" in said


@pytest.mark.long
def test_path_patching():
    run_cleanly(
        "path-patch",
        MODEL,
        *LOOKUP,
        "--pairs",
        3,
        "--receiver",
        "logits",
        "--receiver",
        "v:3.1",
        "--direction",
        "denoising",
        "--out",
        "run",
    )
    table = only_result().effects()
    assert set(table["receiver"]) == {"logits", "v:3.1"}
    into_logits = table.loc[table["receiver"] == "logits"]
    strongest = into_logits.loc[into_logits["recovered"].idxmax(), "sender"]
    assert strongest in ("mlp 3", "head 3.0", "head 3.1", "head 3.2", "head 3.3")


@pytest.mark.long
def test_attribution_patching():
    said = run_cleanly("attribution-patch", MODEL, *LOOKUP, "--pairs", 2, "--site", "attn_out",
                "--site", "mlp_out", "--position", "last", "--sample", 3,
                "--out", "run")  # fmt: skip
    table = only_result().attribution_patching
    assert set(table["site"]) == {"attn_out", "mlp_out"}
    assert table["patched_diff"].notna().sum() == 2 * 2 * 3
    assert "rank correlation" in said


@pytest.mark.long
def test_interactions_of_layers_and_of_heads():
    said = run_cleanly("interactions", MODEL, *LOOKUP, "--layers", "2-4", "--permutations", 3,
                "--out", "run")  # fmt: skip
    assert "overlapping" in said
    found = only_result()
    assert {tuple(layers) for layers in found.interactions["layers"]} >= {(), (2, 3), (2, 3, 4)}
    assert set(found.shapley()["by"]) == {"pairs", "permutations"}
    run_cleanly("interactions", MODEL, *LOOKUP, "--site", "z", "--layers", 2, "--heads", "0,1",
         "--out", "heads")  # fmt: skip
    assert only_result("heads").pairs()["second_head"].eq(1).all()


@pytest.mark.long
def test_layers_of_two_models_are_exchanged():
    said = run_cleanly("transplant", MODEL, "organism-decoder-1", *LOOKUP, "--layers", "2,3",
                "--exchange", "activations", "--exchange", "weights", "--greedy", 1,
                "--write", "merged", "--out", "run")  # fmt: skip
    assert "no gap" in said or "Nothing was exchanged" in said
    assert said.endswith("Model: merged\n")
    found = only_result()
    assert found.facts.settings["other"] == "organism-decoder-1"
    assert set(found.transplant["host"]) == {"base", "other"}
    assert {"config.json", "mergekit.yaml", "transplant.json"} <= set(os.listdir("merged"))
    assert len(found.gaps()) == 1


@pytest.mark.long
def test_a_student_is_distilled():
    said = run_cleanly(
        "distill",
        MODEL,
        "organism-decoder-1",
        "--task",
        "organism-lookup",
        "--limit",
        3,
        "--protocol",
        "continuation",
        "--layers",
        "2-3",
        "--steps",
        2,
        "--batch",
        2,
        "--texts",
        20,
        "--out",
        "student",
    )
    assert "Model: student" in said
    found = only_result("student/compared")
    assert found.facts.settings["layers"] == [2, 3]
    assert len(found.gains()) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "command", ["patch", *in_long_runs(("path-patch",), ("attribution-patch",))]
)
def test_a_model_is_patched_in_its_own_language_if_no_task_is_named(command):
    run_cleanly(command, "wired-decoder", "--pairs", 1, "--limit", 3, "--out", "run")
    assert set(only_result().to_pandas()["task"]) == set(task_names("wired"))


@pytest.mark.parametrize(
    ("analysis", "protocols"),
    [
        ("patching", 1),
        *in_long_runs(("ablation", 3), ("lens", 2), ("attribution", 2), ("similarity", 2)),
    ],
)
def test_a_plan_takes_what_the_analysis_would(analysis, protocols):
    planned = plan_run(MODEL, analysis=analysis, limit=4)
    assert {row.task for row in planned.rows} == set(task_names("organism"))
    assert len({row.protocol for row in planned.rows}) == protocols
    said = run_cleanly("plan", MODEL, "--analysis", analysis, "--limit", 4)
    assert said.count("organism-lookup") == protocols


def test_what_is_not_shown_on_a_terminal_is_not_cut():
    said = run_cleanly("ablate", MODEL, *LOOKUP, "--protocol", "generate", "--block", 2)
    assert "skip:layers=2+3 " in said
    assert "…" not in said
