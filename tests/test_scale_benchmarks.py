"""What ``docs/scale.md`` counts and measures, at a tiny size."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import LlamaConfig

from tests.analysis import WORDS

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Scripts find their neighbours in their own folder."""
    monkeypatch.syspath_prepend(FOLDER)


def write_data(folder: Path) -> Path:
    """Two items of each benchmark that has choices, and of each that has none."""
    first, second, third, fourth, fifth, *_ = WORDS
    (folder / "mmlu" / "test").mkdir(parents=True)
    with (folder / "mmlu" / "test" / "words.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", *(f"choice{k}" for k in range(4)), "answer"])
        for n in range(3):
            rows.writerow([f"what {n}", first, second, third, fourth, n])
    (folder / "mathqa").mkdir()
    options = f"A ) {first} , B ) {second} , C ) {third} , D ) {fourth} , E ) {fifth}"
    maths = [{"instruction": f"what {n} The options: {options}", "answer": "B"} for n in range(3)]
    (folder / "mathqa" / "test.json").write_text(json.dumps(maths))
    (folder / "openbookqa").mkdir()
    asked = f"Please choose: what\n\nAnswer1: {first} Answer2: {second}\n\nAnswer format: ..."
    book = [{"instruction": asked, "answer": "answer2"}] * 3
    (folder / "openbookqa" / "test.json").write_text(json.dumps(book))
    lines = {
        "hellaswag/validation_2000.jsonl": {"ctx": "what", "endings": [first, second], "label": 1},
        "gsm8k/test.jsonl": {"question": "what", "answer": "two and two\n#### 4"},
        "kv_retrieval/kv-retrieval-75_keys_100.jsonl": {
            "ordered_kv_records": [["a", "b"], ["c", "d"]], "key": "c", "value": "d",
        },
    }  # fmt: skip
    for name, row in lines.items():
        (folder / name).parent.mkdir()
        asked = [json.dumps(row | {"question": f"what {n}"}) for n in range(3)]
        (folder / name).write_text("\n".join(asked) + "\n")
    return folder


def test_items_are_read_as_they_are_asked(tmp_path):
    study: Any = importlib.import_module("paper_study")
    data = write_data(tmp_path)
    read = {name: next(iter(one.read(data))) for name, one in study.BENCHMARKS.items()}
    assert read["MMLU"].answer == WORDS[0]
    assert read["MathQA"].answer == WORDS[1]
    assert read["MathQA"].choices == WORDS[:5]
    assert (read["OpenBookQA"].question, read["OpenBookQA"].answer) == ("what", WORDS[1])
    assert read["HellaSwag"].answer == WORDS[1]
    assert read["GSM8K"].worked == "two and two The answer is 4"
    assert read["key-value retrieval"].answer == "d"
    assert '"c": "d"' in read["key-value retrieval"].context


@pytest.mark.smollm2
def test_a_study_is_counted_from_plans_of_its_models(tmp_path, monkeypatch, capsys):
    study: Any = importlib.import_module("paper_study")
    config = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048,
        tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    monkeypatch.setattr(study, "MODELS", {"tiny": config})
    few = {
        "MathQA": study.BENCHMARKS["MathQA"],
        "GSM8K": study.Benchmark(8, 1, 4, ("generate",), study.gsm8k),
    }
    monkeypatch.setattr(study, "BENCHMARKS", few)
    study.main([str(write_data(tmp_path)), "--items", "2"])
    told = capsys.readouterr().out
    assert "### tiny" in told
    rows = [line.split("|") for line in told.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows[2:]] == ["MathQA", "GSM8K", "all"]
    assert rows[-1][2].strip() == f"{2985 + 8:,}"
    layer = 32 * (2 * 32 + 2 * 16) + 3 * 32 * 64 + 2 * 32
    whole = 2 * 49152 * 32 + 32 + 3 * layer
    assert f"Weights: {whole * 2 / 1e9:.1f} GB" in told


def test_hours_follow_from_operations_and_data_sheets():
    study: Any = importlib.import_module("paper_study")
    assert study.row([2e9, 20e9, 312e12 * 0.4 * 3600, 10 * 312e12 * 0.4 * 3600]) == [
        "2.00", "20.00", "10.0", "449", "1.0", "10.0", "0.3", "3.2",
    ]  # fmt: skip


def test_workers_are_held_against_one_process_by_medians():
    benchmark: Any = importlib.import_module("ray_workers")
    seconds = {way: [6.0 / (n + 1), 12.0 / (n + 1), 90.0] for n, way in enumerate(benchmark.WAYS)}
    rows = [
        {"way": way, "seconds": one, "processor_seconds": 2 * one}
        for way, measured in seconds.items()
        for one in measured
    ]
    assert benchmark.table_of(pd.DataFrame(rows)) == [
        ["one process, two threads", "12.0", "24.0", "1.00", "1.00"],
        ["one worker, one thread", "6.0", "12.0", "2.00", "2.00"],
        ["two workers, one thread each", "4.0", "8.0", "3.00", "3.00"],
    ]


@pytest.mark.smollm2
@pytest.mark.long
@pytest.mark.filterwarnings(
    "ignore:subprocess .* is still running:ResourceWarning",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)
def test_workers_are_measured_beside_one_process(capsys, tmp_path):
    benchmark: Any = importlib.import_module("ray_workers")
    out = tmp_path / "results" / "rows.csv"
    asked = ["--layers", "2", "--items", "4", "--rounds", "1", "--out", str(out)]
    benchmark.main(asked)
    told = capsys.readouterr().out
    assert list(pd.read_csv(out)["way"]) == list(benchmark.WAYS)
    assert "two workers, one thread each" in told
