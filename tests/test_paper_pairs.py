"""The config of the paper's pairs: it plans and runs on tiny random models of their classes."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import pytest

import layerwise as lw
from layerwise.planning import plan_run
from tests.cases import in_long_runs
from tests.models.tiny import tiny_folder

FOLDER = Path(__file__).parents[1] / "analyses" / "paper_pairs"
CONFIG = tomllib.loads((FOLDER / "config.toml").read_text("utf-8"))
ROOM: dict[str, Any] = {"max_position_embeddings": 1024}
CLASSES = {"qwen-1.5b": "qwen2", "qwen-7b": "qwen2", "llama-8b": "llama"}


@pytest.fixture(scope="module")
def study() -> Any:
    spec = importlib.util.spec_from_file_location("paper_pairs", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["qwen-1.5b", *in_long_runs(("llama-8b",))])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The config with a tiny random pair in place of a real one, and few items."""
    (pair,) = (dict(each) for each in CONFIG["pairs"] if each["name"] == request.param)
    for seed, which in enumerate(("base", "distilled")):
        folder = tmp_path_factory.mktemp(which)
        pair[which] = str(tiny_folder(folder, CLASSES[pair["name"]], seed=seed, **ROOM))
    asked = CONFIG["asked"] | {"limit": 2, "tasks": ["facts"], "protocols": ["continuation"]}
    return pair, CONFIG | {"asked": asked, "load": {"dtype": "float32", "device": "cpu"}}


def test_every_pair_is_of_a_known_class():
    assert {pair["name"] for pair in CONFIG["pairs"]} == set(CLASSES)


@pytest.mark.filterwarnings("ignore::layerwise.errors.LongAnswersWarning")
def test_the_config_plans_with_all_that_it_asks(study, tiny):
    pair, config = tiny
    (first, second, third) = study.plans(pair, config)
    assert "ablation of" in first
    assert "transplant of" in second
    assert pair["distilled"] in third
    whole = plan_run(pair["base"], **CONFIG["asked"] | {"limit": 3}, untimed=True)
    assert {row.task for row in whole.rows} == set(CONFIG["asked"]["tasks"])
    assert {row.protocol for row in whole.rows} == set(CONFIG["asked"]["protocols"])


@pytest.mark.long
def test_a_pair_is_asked_compared_and_exchanged(study, tiny, tmp_path):
    pair, config = tiny
    said = list(study.study_pair(pair, config, tmp_path))
    for folder in ("base", "distilled", "transplant"):
        assert lw.verify(tmp_path / folder).ok
    # random models can do nothing, so that there is nothing to compare, and that is said
    assert any("no intact model is better than blind" in line for line in said)
