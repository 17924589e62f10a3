"""A profile with everything on, of a trained model whose retrieving layers are known."""

from __future__ import annotations

import pandas as pd
import pytest

import layerwise as lw
from layerwise.errors import UserError
from layerwise.models import load_model
from layerwise.profiling.extras import EXTRAS, wanted_extras

OPTIONS = {"protocols": ["continuation", "generate"], "limit": 12, "pairs": 2, "also": "all"}


@pytest.fixture(scope="module")
def model():
    return load_model("organism-decoder")


def test_everything_is_made_shown_and_read_again(model, tmp_path, monkeypatch):
    """One test, so that the profile is made by one process only."""
    folder = tmp_path / "run"
    found = lw.profile(model, "organism-lookup", out=folder, progress=False, **OPTIONS)
    assert_every_analysis_has_its_result_and_its_section(found, folder)
    assert_layers_parts_and_heads_are_changed_beside_one_intact_run(found.results[0], model)
    monkeypatch.setattr("layerwise.sweep.engine_run.block_runners", None)
    monkeypatch.setattr("layerwise.report.html.render", lambda pages: ("", {}))  # was drawn before
    again = lw.profile(model, "organism-lookup", out=folder, progress=False, **OPTIONS)
    by_kind = {type(result): result.to_pandas() for result in again.results}
    for result in found.results:
        pd.testing.assert_frame_equal(result.to_pandas(), by_kind[type(result)])


def assert_every_analysis_has_its_result_and_its_section(found, folder):
    kinds = [type(result).__name__ for result in found.results]
    assert kinds == [
        "AblationResult", "LensResult", "PatchingResult", "HeadsResult", "AttributionResult",
        "SimilarityResult", "RemovalResult", "AttributionPatchingResult", "PathPatchingResult",
        "EmergenceResult",
    ]  # fmt: skip
    assert {type(result).__name__ for result in lw.load_results(folder)} == set(kinds)
    assert set(found.results[-1].emergence["method"]) == {
        "ablation", "logit lens", "activation patching", "direct attribution",
    }  # fmt: skip
    page = (folder / "report.html").read_text("utf-8")
    for heading in (
        "Direct logit attribution", "Removal of layers", "Direct paths", "Estimated patches",
        "Induction heads", "Protocols and groups of layers", "Agreement of methods",
    ):  # fmt: skip
        assert heading in page


def assert_layers_parts_and_heads_are_changed_beside_one_intact_run(ablation, model):
    sites = ablation.records.groupby("site", dropna=False)["intervention"].nunique()
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    expected = {
        "layer": n_layers, "attn_out": n_layers, "mlp_out": n_layers, "z": n_layers * n_heads,
    }  # fmt: skip
    assert {site: n for site, n in sites.items() if isinstance(site, str)} == expected
    assert (ablation.records["intervention"] == "intact").sum() == 2 * 12
    layers = ablation.effects().query("site == 'layer' and protocol == 'generate' and significant")
    assert set(layers["layer"]) == {2, 3}


def test_additions_by_name(model):
    assert wanted_extras((), model.cfg) == ()
    assert wanted_extras(["all"], model.cfg) == tuple(EXTRAS)
    assert wanted_extras(["removal", "parts"], model.cfg) == ("parts", "removal")
    with pytest.raises(UserError, match=r"Unknown addition to a profile 'head'\. Did you mean"):
        lw.profile(model, "organism-lookup", also="head", progress=False)
