from __future__ import annotations

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layerwise import results, stats
from layerwise.analyses.ablation import result as ablation_result
from layerwise.analyses.ablation.api import ablate
from layerwise.analyses.ablation.result import can_join, join_ablations
from layerwise.analyses.emergence.api import emergence
from layerwise.errors import UserError
from layerwise.ground.analysis_folders import OWN
from layerwise.presentation.naming import name_layer
from layerwise.results import (
    AblationResult,
    EmergenceResult,
    LensResult,
    RunFolder,
    load,
)
from layerwise.runs.checkpoints import read_part_file, write_bytes_part
from layerwise.storage.estimates import table_from_estimates
from layerwise.storage.parquet import frame, read_table
from layerwise.storage.schemas import SCHEMAS, SHARED, TABLES, column_description
from tests import synthetic
from tests.analysis import word_task
from tests.models.tiny import tiny_model


@pytest.fixture
def ablation():
    return synthetic.small_ablation()


@pytest.fixture
def lens():
    return synthetic.lens(np.linspace(-9, -1, 9) + np.zeros((5, 9)), "keys", "retrieval")


@pytest.fixture
def patching_result():
    return synthetic.patching_result(np.linspace(0, 1, 8) + np.zeros((5, 8)), "keys", "retrieval")


def test_a_frame_of_records_has_columns_and_types():
    row = {
        "intervention": "intact", "kind": "intact", "task": "t", "capability": "knowledge",
        "item": "i", "protocol": "letter", "correct": np.bool_(True), "margin": np.float32(0.5),
    }  # fmt: skip
    table = frame("records", [row, row | {"layer": 3, "correct_norm": False}])
    assert list(table.columns[:5]) == ["intervention", "kind", "site", "layer", "task"]
    assert table.dtypes["layer"] == "Int64"
    assert table.dtypes["correct"] == "bool"
    assert table.dtypes["correct_norm"] == "boolean"
    assert table.dtypes["gold_logprob"] == "float64"
    assert table["layer"].isna().tolist() == [True, False]
    assert table["margin"].tolist() == [0.5, 0.5]
    assert list(frame("records", []).dtypes) == list(table.dtypes)


def test_a_table_that_says_it_is_larger_than_it_can_be_is_refused(ablation, tmp_path, monkeypatch):
    path = tmp_path / "records.parquet"
    pq.write_table(pa.table({"margin": pa.nulls(20_000_000)}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"says that it has 20,000,000 rows in .* GiB of memory"):
        read_table(path, "records")
    write_bytes_part(path, "run", "part", path.read_bytes(), {})
    with pytest.raises(UserError, match="is missing, damaged or of another run"):
        read_part_file(path, "run", "part")
    path.unlink()
    ablation.save(tmp_path)
    few = psutil.virtual_memory()._replace(available=2**16)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    with pytest.raises(UserError, match=r"expected a table that layerwise wrote, and room for it"):
        read_table(path, "records")


def test_frames_refuse_unknown_columns_and_missing_values():
    with pytest.raises(ValueError, match=r"unknown columns for records: \['colour'\]"):
        frame("records", [{"colour": 1}])
    with pytest.raises(ValueError, match="null in column task"):
        frame("lens", [{"layer": 1}])
    with pytest.raises(ValueError, match="null in column task"):
        frame("patching", [{"layer": 1}])


def test_a_result_refuses_a_table_of_another_shape(ablation):
    with pytest.raises(ValueError, match=r"missing columns for records: \['correct'\]"):
        AblationResult(ablation.records.drop(columns="correct"), ablation.facts)
    with pytest.raises(ValueError, match="another type"):
        AblationResult(ablation.records.assign(layer="three"), ablation.facts)


def test_lens_summary_averages_over_items():
    values = np.random.default_rng(0).normal(-3, 1, size=(40, 4))
    table = synthetic.lens(values, "keys", "retrieval").summary()
    assert table["layer"].tolist() == [-1, 0, 1, 2]
    assert table["n_items"].tolist() == [40] * 4
    for k, row in table.iterrows():
        expected = stats.paired_bootstrap(values[:, k], seed=stats.generator(0, "keys"))
        found = row[["logprob", "logprob_low", "logprob_high"]].tolist()
        assert found == pytest.approx([expected.estimate, expected.low, expected.high])
        ranks = np.maximum(0, -np.round(values[:, k]) - 1)
        assert row["median_rank"] == np.median(ranks)


def test_patching_summary_is_the_ratio_of_means():
    shares = np.random.default_rng(0).random((30, 3))
    table = synthetic.patching_result(shares, "keys", "retrieval").summary()
    assert table["recovered"].tolist() == pytest.approx(shares.mean(axis=0).tolist())
    assert (table["recovered_low"] < table["recovered"]).all()
    assert (table["recovered"] < table["recovered_high"]).all()
    assert table["n_items"].tolist() == [30] * 3


def test_patching_summary_with_labels_that_some_prompts_lack():
    one = synthetic.patching_result(np.full((3, 2), 0.25), "keys", "retrieval")
    other = one.patching.query("item == 'keys/0000'").assign(pos_label="next", pos=4)
    both = results.PatchingResult(pd.concat([one.patching, other]), one.facts)
    table = both.summary().set_index(["pos_label", "layer"])
    assert table.loc[("next", 1), "n_items"] == 1
    assert table.loc[("next", 1), "recovered"] == pytest.approx(0.25)


def test_repr_is_one_line(ablation, lens):
    assert repr(ablation) == (
        "AblationResult(made-up; tasks: keys, sums; protocols: generate, letter; 120 items)"
    )
    assert repr(lens) == "LensResult(made-up; tasks: keys; protocols: letter; 5 items)"


def test_a_result_draws_itself_with_its_layers_named(ablation, monkeypatch):
    """The figure of its own folder is asked, where layers have the names of the model."""
    from layerwise.analyses.ablation.page import figures

    seen = []
    monkeypatch.setattr(
        figures, "role_map", lambda table, *_, **__: seen.append((len(table), name_layer(3)))
    )
    ablation.plot()
    model = ablation.facts.model.model_copy(update={"n_encoder_layers": 2})
    facts = ablation.facts.model_copy(update={"model": model})
    AblationResult(ablation.records, facts).plot()
    rows = len(ablation.effects())
    assert seen == [(rows, "3"), (rows, "decoder.1")]


def test_to_pandas_is_a_copy(ablation):
    copy = ablation.to_pandas()
    copy["correct"] = False
    assert ablation.records["correct"].any()


def test_results_come_back_as_they_were(ablation, lens, patching_result, tmp_path):
    for result in (ablation, lens, patching_result):
        result.save(tmp_path)
    found = load(tmp_path)
    assert [type(r) for r in found] == [type(r) for r in (ablation, lens, patching_result)]
    for before, after in zip((ablation, lens, patching_result), found, strict=True):
        assert after.facts == before.facts
        pd.testing.assert_frame_equal(after.to_pandas(), before.to_pandas())
    estimates, _ = read_table(tmp_path / "estimates.parquet", "estimates")
    pd.testing.assert_frame_equal(table_from_estimates(estimates, "effects"), ablation.effects())
    assert len(estimates) == sum(
        len(each.estimates()) for each in (ablation, lens, patching_result)
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "estimates.parquet", "lens.parquet", "patching.parquet", "prediction_depth.parquet",
        "records.parquet", "run.json",
    ]  # fmt: skip


def test_run_json_joins_the_facts_of_results_in_one_folder(ablation, patching_result, tmp_path):
    ablation.save(tmp_path)
    patching_result.save(tmp_path)
    joined = results.Facts.model_validate_json((tmp_path / "run.json").read_text())
    assert joined.protocols == ("letter", "generate", "continuation")
    assert [task.name for task in joined.tasks] == ["keys", "sums"]
    assert len(joined.work) == 1


def test_results_of_another_model_are_not_mixed(ablation, lens, tmp_path):
    ablation.save(tmp_path)
    other = lens.facts.model_copy(
        update={"model": lens.facts.model.model_copy(update={"hash": "cd" * 32})}
    )
    with pytest.raises(UserError, match="model 'made-up' has hash abababababab in one and cdcdcd"):
        LensResult(lens.lens, other).save(tmp_path)
    assert not (tmp_path / "lens.parquet").exists()


def test_facts_describe_every_field():
    for model in (results.Facts, results.ModelFacts, results.TaskFacts):
        for name, field in model.model_fields.items():
            assert (field.description or "").endswith((".", ".)")), name


def test_loading_says_what_is_wrong(ablation, tmp_path):
    with pytest.raises(UserError, match="No folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"No results in .*records\.parquet, .* or verdicts"):
        load(tmp_path)
    with pytest.raises(UserError, match="missing, damaged or not a Parquet file"):
        AblationResult.load(tmp_path)
    ablation.save(tmp_path)
    path = tmp_path / "records.parquet"
    pd.read_parquet(path).drop(columns=["correct", "item"]).to_parquet(path)
    synthetic.list_anew(tmp_path)
    with pytest.raises(UserError, match="lacks the columns item, correct: expected"):
        load(tmp_path)
    ablation.records.assign(layer="three").to_parquet(path)
    synthetic.list_anew(tmp_path)
    with pytest.raises(UserError, match="has a column of another type"):
        load(tmp_path)
    path.write_text("not Parquet")
    synthetic.list_anew(tmp_path)
    with pytest.raises(UserError, match="not a Parquet file"):
        load(tmp_path)


def test_tables_written_by_other_tools_take_the_facts_of_run_json(ablation, tmp_path):
    ablation.save(tmp_path)
    ablation.records.to_parquet(tmp_path / "records.parquet")
    synthetic.list_anew(tmp_path)
    assert AblationResult.load(tmp_path).facts == ablation.facts
    synthetic.list_anew(tmp_path, model=3)
    with pytest.raises(UserError, match=r"run\.json does not hold the facts of a run \(model"):
        load(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        load(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(UserError, match=r"No run\.json"):
        AblationResult.load(tmp_path)


def test_joined_results_leave_the_settings_of_a_finished_run_alone(tmp_path):
    ablation = synthetic.small_ablation()
    settings = ablation.facts.settings
    with RunFolder.open(tmp_path, settings) as run:
        ablation.save(tmp_path)
        run.finish(ablation.facts)
    told = json.loads((tmp_path / "run.json").read_text())
    other = synthetic.facts(settings={"another": 1})
    lens = LensResult(frame("lens", []), other)
    emergence([ablation, lens], seed=3, n_resamples=20).save(tmp_path)
    now = json.loads((tmp_path / "run.json").read_text())
    assert now.pop("files").keys() > told.pop("files").keys()
    assert now == told
    with RunFolder.open(tmp_path, settings) as run:
        assert run.finished
    lens.save(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["settings"] == settings | {"another": 1}


def test_joined_results_of_another_model_are_refused(tmp_path):
    synthetic.small_ablation().save(tmp_path)
    model = synthetic.MODEL.model_copy(update={"hash": "cd" * 32})
    tables = {name: frame(name, []) for name in EmergenceResult.tables}
    with pytest.raises(UserError, match="These results do not belong together: model"):
        EmergenceResult(**tables, facts=synthetic.facts(model=model)).save(tmp_path)


def test_depths_that_lack_a_table_are_not_loaded(tmp_path):
    ablation = synthetic.small_ablation()
    ablation.save(tmp_path)
    emergence([ablation], n_resamples=20).save(tmp_path)
    assert len(load(tmp_path)) == 2
    (tmp_path / "left_out.parquet").unlink()
    synthetic.list_anew(tmp_path)
    assert [type(result) for result in load(tmp_path)] == [AblationResult]


def test_what_follows_from_the_tables_is_computed_once(ablation, lens, monkeypatch):
    asked = []
    table = ablation_result.effects_table

    def counted(*given):
        asked.append(given)
        return table(*given)

    monkeypatch.setattr(ablation_result, "effects_table", counted)
    fresh = AblationResult(ablation.records, ablation.facts)
    first = fresh.effects()
    first["acc"] = -1.0  # a copy, which may be changed
    again = fresh.effects()
    assert len(asked) == 1
    assert (again["acc"] >= 0).all()
    pd.testing.assert_frame_equal(again, table(*asked[0]))
    other = AblationResult(ablation.records.iloc[::-1], ablation.facts)
    other.effects()
    assert len(asked) == 2  # of each result on its own
    parts = lens.derived_tables()
    for name, found in lens.derived_tables().items():
        assert found is not parts[name]
        pd.testing.assert_frame_equal(found, parts[name])


SCRIPT = Path(__file__).parents[1] / "docs" / "make_results.py"


def test_the_page_is_what_make_docs_writes():
    made = runpy.run_path(str(SCRIPT))
    assert made["PAGE"].read_text("utf-8") == made["page"]()
    assert made["FRAMES"].read_text("utf-8") == made["frames_page"]()
    assert made["METHODS"].read_text("utf-8") == made["methods_page"]()
    assert made["CLAIMS"].read_text("utf-8") == made["claims_page"]()


def test_every_analysis_has_its_row_among_the_methods():
    rows = runpy.run_path(str(SCRIPT))["analyses"]().splitlines()[2:]
    assert len(rows) == len(OWN)
    for row in rows:
        for page in re.findall(r"\(([\w]+\.md)", row):
            assert (SCRIPT.parent / page).is_file()


def test_every_description_is_of_a_column():
    used = {
        column_description(table, c)[:2]
        for table, columns in SCHEMAS.items()
        for c in columns.names
    }
    own = {"": SHARED, **TABLES}
    written = {(table, columns) for table, texts in own.items() for columns in texts}
    assert {key for key in written if key[1] not in {"fold", "rows", "like", "columns"}} == used


def test_a_bound_is_described_with_its_value_unless_by_itself():
    assert column_description("effects", "nats_low").columns == "nats"
    assert column_description("effects", "acc_diff_run_high").columns == "acc_diff"
    assert column_description("early_exit_layers", "share_low").table == "effects"
    assert column_description("training_onsets", "low").table == "training_onsets"


TASK = word_task(6)


def ablate_tiny(**changes) -> AblationResult:
    return ablate(tiny_model("llama"), TASK, progress=False, **changes)


@pytest.mark.long
def test_joined_ablations_are_the_same_as_one_run_of_all():
    first, second = ablate_tiny(layers=[0]), ablate_tiny(layers=[1, 2])
    parts = [
        first,
        second,
        ablate_tiny(kind="zero", site="z"),
        ablate_tiny(kind="mean", site="mlp_out"),
    ]
    (one,) = join_ablations(parts)
    assert isinstance(one, AblationResult)
    together = ablate_tiny().effects()  # Holm's family is all layers again
    skips = one.effects().query("kind == 'skip'").reset_index(drop=True)
    pd.testing.assert_frame_equal(skips, together, rtol=0, atol=1e-5)
    for part in parts[2:]:
        effects = part.effects()
        mine = one.effects().merge(effects[["intervention"]].drop_duplicates())
        pd.testing.assert_frame_equal(
            mine.sort_values(list(mine.columns[:4]), ignore_index=True),
            effects.sort_values(list(mine.columns[:4]), ignore_index=True), rtol=0, atol=1e-5,
        )  # fmt: skip
    pd.testing.assert_frame_equal(one.signal(), first.signal())
    assert one.facts.settings["kind"] == ["skip", "zero", "mean"]
    assert one.facts.settings["chat"] is False


def test_other_results_stay_where_they_are():
    lens = synthetic.lens(np.zeros((3, 4)), "keys", "retrieval")
    right = np.ones((5, 3), dtype=bool)
    skips = synthetic.cell_records(right, "keys", "retrieval")
    told = synthetic.facts(synthetic.task_facts("keys", "retrieval"))
    one = AblationResult(skips, told)
    other = AblationResult(
        skips.assign(intervention=skips["intervention"].str.replace("skip", "zero")), told
    )
    joined = join_ablations([lens, one, other])
    assert joined[0] is lens
    assert len(joined) == 2
    assert join_ablations([one, lens]) == [one, lens]
    found = emergence([lens, one, other], n_resamples=20)
    assert "ablation" not in set(found.emergence["method"])  # nothing was lost


@pytest.mark.parametrize("what", ["the same change", "another answer", "other prompts", "items"])
def test_what_does_not_belong_together_is_told(what):
    right = np.ones((5, 3), dtype=bool)
    skips = synthetic.cell_records(right, "keys", "retrieval")
    one = AblationResult(skips, synthetic.facts(synthetic.task_facts("keys", "retrieval")))
    zeros = skips.assign(intervention=skips["intervention"].str.replace("skip", "zero"))
    intact = zeros["intervention"] == "intact"
    assert can_join(one, replace(one, records=zeros))
    if what == "the same change":
        zeros = skips
    elif what == "another answer":
        zeros = zeros.assign(correct=zeros["correct"] & ~(intact & (zeros.index == 0)))
    elif what == "other prompts":
        zeros = zeros.assign(gold_logprob=zeros["gold_logprob"] - 0.2)
    else:
        zeros = zeros.loc[zeros["item"] != "keys/0000"]
    other = replace(one, records=zeros)
    assert not can_join(one, other)
    with pytest.raises(UserError, match=r"^Two ablations do not belong together, .* apart\.$"):
        join_ablations([one, other])
