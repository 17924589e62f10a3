"""The benchmarks at a tiny size: they run to their tables, and print none for work that differs."""

from __future__ import annotations

import copy
import csv
import functools
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig

from layerwise.models import load_model, original_tokenizer
from layerwise.models.instance.kinds import runs_original_modules
from layerwise.sweep import Generate, LogLikelihood, Scored, intact, skip, sweep
from layerwise.sweep.checks.rounding import measure_rounding
from layerwise.tasks import PatchingPrompts
from tests.analysis import WORDS, prompt_pair, word_task
from tests.cases import in_long_runs
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_folder, tiny_model
from tests.sweep.models import amplifying_model, random_model

FOLDER = Path(__file__).parents[1] / "benchmarks"
RUNS = [
    ("loglikelihood_sweep", []),
    pytest.param("loglikelihood_sweep", ["--dtype", "bfloat16"], marks=pytest.mark.long),
    ("generation_sweep", ["--few-shot", "2"]),
    pytest.param("generation_sweep", ["--dtype", "bfloat16"], marks=pytest.mark.long),
    ("few_shot", []),
    ("transplant_sweep", []),
    pytest.param("backends", [], marks=pytest.mark.hooked_transformer),
]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Scripts find their neighbours in their own folder, and load models into a new cache."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    # The text of two suites is enough for a tiny size, and so is a moment for each product.
    texts, products = map(importlib.import_module, ("texts", "products"))
    moment = functools.partial(products._fastest, for_seconds=0.01)
    monkeypatch.setattr(products, "_fastest", moment)
    monkeypatch.setattr(texts, "SENTENCES", texts.SENTENCES[:2])
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("models")
    return tiny_folder(where, "llama", max_position_embeddings=2048)


def benchmark(name: str) -> Any:
    return importlib.import_module(name)


@pytest.mark.long
@pytest.mark.parametrize(("name", "arguments"), RUNS)
def test_a_table_with_ratios_is_printed(name, arguments, folder, capsys):
    benchmark(name).main(["--quick", "--threads", "1", "--model", str(folder), *arguments])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ratio = table[0].index("ratio")
    rows = [row for row in table[2:] if len(row) == len(table[0])]
    assert len(rows) >= 2
    # What the ratios of a tiny model are is of no interest.
    assert all(float(row[ratio]) >= 0 for row in rows)


def test_heads_are_compared_with_hooks(folder, capsys):
    benchmark("head_sweep").main(["--quick", "--threads", "1", "--model", str(folder)])
    printed = capsys.readouterr().out
    assert "| heads | items x options |" in printed
    assert "nats apart at most" in printed


def test_hooks_and_engine_are_compared_as_before(monkeypatch, folder):
    script = benchmark("sweep_vs_hooks")
    monkeypatch.setattr(script, "SUITES", ("arithmetic",))
    model = load_model(folder)
    tokenizer = original_tokenizer(model)
    scoring, agreed = script.compare_scoring(model, script.ask(1, ("letter",), tokenizer), 2)
    texts, also = script.compare_generation(model, script.ask(1, ("generate",), tokenizer), 2)
    # Four letters and one text, by two models and two ways.
    assert (agreed + also).compared == 2 * 2 * (4 + 1)
    assert script.table([*scoring, *texts]).count("\n") == 1 + 4


def test_a_wrong_log_likelihood_is_refused() -> None:
    same_work = benchmark("same_work")
    model, changes = tiny_model("llama"), [intact(), skip(1)]
    requests = [LogLikelihood((5, 6, 7), (8, 9)), LogLikelihood((9, 8), (7,))]
    right = sweep(model, changes, requests).outcomes
    assert same_work.check(model, changes, requests, right, right).by_rounding == 0
    first = right[1][0]
    assert isinstance(first, Scored)
    for off in (1e-3, float("nan")):
        wrong = replace(
            first, token_logprobs=(first.token_logprobs[0] + off, *first.token_logprobs[1:])
        )
        other = [right[0], [wrong, right[1][1]]]
        with pytest.raises(SystemExit, match="skip:layer=1: the engine is"):
            same_work.check(model, changes, requests, other, right)
        # The engine is not to blame for what the other side has wrong.
        with pytest.raises(SystemExit, match="skip:layer=1: the other way is"):
            same_work.check(model, changes, requests, right, other)


def test_differences_that_rounding_explains_are_counted_and_not_refused() -> None:
    same_work, model = benchmark("same_work"), amplifying_model()
    requests = [LogLikelihood((5, 6, 7, 8), (8, 9)), LogLikelihood((9, 8), (7,))]
    rounding = measure_rounding(model, intact(), requests)
    exact, far = rounding.truth[0], rounding.error_bound - 1e-6
    off = replace(exact, token_logprobs=(exact.token_logprobs[0] + far, *exact.token_logprobs[1:]))
    sides = [[exact, rounding.truth[1]]], [[off, rounding.truth[1]]]
    assert far > 1e-4
    for one, other in (sides, reversed(sides)):
        assert same_work.check(model, [intact()], requests, one, other).by_rounding == 1


def test_texts_may_part_at_a_tie_only() -> None:
    same_work = benchmark("same_work")
    model, asked = tiny_model("llama"), [Generate((5, 6, 7), 3)]
    (text,) = (one.tokens for one in sweep(model, [skip(0)], asked).outcomes[0])
    other = (*text[:2], (text[2] + 1) % model.cfg.d_vocab)
    assert same_work.check_texts(model, [0], asked, [[text]], [[text]], None) == 0
    for pair in ((text, other), (other, text), (text, text[:2])):
        with pytest.raises(SystemExit, match="part without a tie"):
            same_work.check_texts(model, [0], asked, *([[one]] for one in pair), None)
    flat = copy.deepcopy(model)
    if runs_original_modules(flat):
        flat.parts.unembed.weight.data.zero_()
    else:
        flat.unembed.W_U.data.zero_()
        flat.unembed.b_U.data.zero_()
    assert same_work.check_texts(flat, [0], asked, [[text]], [[other]], None) == 1


def test_products_are_counted_and_left_as_they_are() -> None:
    products = benchmark("products")
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator) for s in ((2, 5, 8), (3, 8), (3,)))
    with torch.inference_mode(), products.ProductCounter() as made:
        added = torch.ones(5, 3).addmm_(x[0], weight.T)
        out = F.linear(x, weight, bias), x @ weight.T
    assert dict(made.shapes) == {(10, 8, 3): 2, (5, 8, 3): 1}
    assert made.operations == 2 * (10 + 10 + 5) * 8 * 3
    torch.testing.assert_close(out, (F.linear(x, weight, bias), x @ weight.T))
    torch.testing.assert_close(added, 1 + x[0] @ weight.T)
    assert products.product_rate(made.shapes, torch.float32) > 0


def test_pieces_share_no_prefix_and_shots_are_not_asked() -> None:
    texts = benchmark("texts")
    tokenizer = original_tokenizer(tiny_model("llama"))
    cut = texts.pieces(tokenizer, 9, 30)
    assert {len(piece) for piece in cut} == {30}
    assert len({piece[0] for piece in cut}) == 9
    task = texts.with_shots("word-problems", 6, 5)
    assert (len(task.fewshot), len(task.items)) == (6, 5)
    assert not {one.id for one in task.fewshot} & {one.id for one in task.items}
    with pytest.raises(SystemExit, match="has only"):
        texts.with_shots("word-problems", 300, 5)
    assert texts.shared_prefix([(1, 2, 3), (1, 2), (1, 2, 4)]) == 2


def test_encoder_decoders_against_pruned_models(capsys):
    module = benchmark("encoder_decoder")
    module.main(["--quick", "--threads", "1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 2 + 2")]
    assert len(lines) == 2
    assert "8 texts, the same" in lines[1]


def test_other_outcomes_of_encoder_decoders_end_the_program():
    module, model = benchmark("encoder_decoder"), tiny_seq2seq("t5")
    scored, texts = [LogLikelihood((5, 6, 7), (8, 9))], [Generate((5, 6, 7), 2)]
    ((right,),) = sweep(model, [skip(0)], scored).outcomes
    wrong = replace(
        right, token_logprobs=(right.token_logprobs[0] + 1e-2, *right.token_logprobs[1:])
    )
    with pytest.raises(SystemExit, match=r"skip:layer=0: the other way is 0\.01 nats off"):
        module.agreement(model, [0], scored, [[right]], [[wrong]])
    ((text,),) = sweep(model, [skip(0)], texts).outcomes
    other = (*text.tokens[:-1], (text.tokens[-1] + 1) % model.cfg.d_vocab)
    assert module.agreement(model, [0], texts, [[text]], [[text.tokens]]) == "1 texts, the same"
    with pytest.raises(SystemExit, match="part without a tie"):
        module.agreement(model, [0], texts, [[text]], [[other]])


@pytest.mark.long
@pytest.mark.parametrize(
    "made",
    [lambda: tiny_model("llama"), *in_long_runs((lambda: tiny_seq2seq("t5"),))],
)
def test_three_jobs_are_planned_and_run(made):
    plan_vs_actual, model = benchmark("plan_vs_actual"), made()
    pair = prompt_pair(model, "pair", "the red key opens", "the blue key opens")
    assert pair is not None
    asked = (word_task(5),)
    suites = plan_vs_actual.Suites(asked, asked, (word_task(items=(pair,)),))
    scored, written, patched = plan_vs_actual.compare(model, suites, 3, 2)
    assert scored.planned_passes == scored.passes > 0
    assert patched.planned_passes == patched.passes > 0
    assert written.passes > 0
    rows = (scored, written, patched)
    assert all(row.ratio == pytest.approx(row.seconds / row.planned_seconds) for row in rows)
    lines = plan_vs_actual.table(list(rows)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {row.job}" for row in rows]


PROMPTS = PatchingPrompts(
    "made-up", tuple(range(1, 13)), (1, 2, 3, 20, 21, *range(6, 13)), clean_answer=30,
    corrupted_answer=31,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["llama-gqa", *in_long_runs(("gpt2",))])
def test_patching_agrees_and_its_seconds_are_scaled(kind):
    patching, model = benchmark("patching_sweep"), random_model(kind)
    positions = patching.spaced_positions(PROMPTS, 3)
    assert positions == [3, 7, 11]
    found = patching.compare(
        model, PROMPTS, ["resid_pre", "attn_out", "mlp_out", "z"], positions, 2
    )
    assert found.gap < 1e-4
    assert [row.cells for row in found.rows] == [12, 12, 12, 48, 84]
    assert found.cells == (12 + 12 + 12 + 48) // 2
    *alone, together = found.rows
    assert together.hooks.seconds == pytest.approx(sum(row.hooks.seconds for row in alone))
    text = patching.table(found.rows, 4, 2)
    assert "from 2 of 4 layers" in text
    assert text.count("\n") == 6


def test_a_patch_that_differs_leaves_no_table(monkeypatch):
    patching, model = benchmark("patching_sweep"), random_model("llama-gqa")
    swapped = replace(PROMPTS, clean=PROMPTS.corrupted)
    true = patching.by_hooks
    monkeypatch.setattr(patching, "by_hooks", lambda model, _, *rest: true(model, swapped, *rest))
    with pytest.raises(SystemExit, match="with hooks"):
        patching.compare(model, PROMPTS, ["resid_pre"], [3], 4)


@pytest.mark.long
def test_growth_is_measured_saved_and_drawn(tmp_path, monkeypatch, capsys):
    growth = benchmark("growth")
    monkeypatch.setattr(growth, "QUICK", {"layers": (2, 4), "items": (1, 2)})
    # tests/sweep/test_peak_memory.py measures in processes of their own.
    monkeypatch.setattr(
        growth, "measure_in_new_processes", lambda points: list(map(growth.measure, points))
    )
    growth.main(["--quick", "--out", str(tmp_path)])
    found = pd.read_csv(tmp_path / "results" / "growth.csv")
    assert found["block_passes"].tolist() == [3, 10, 3, 3]
    assert found["formula"].tolist() == [3, 10, 3, 3]
    assert (found["peak"] < found["budget"]).all()
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("\n| ") == 1 + 4


def test_growth_beyond_what_is_promised_is_refused():
    growth = benchmark("growth")
    good = {
        "varied": "items", "value": 2, "block_passes": 3, "formula": 3, "peak": 10, "budget": 10,
    }  # fmt: skip
    growth.refuse_excess(pd.DataFrame([good]))
    for bad, sentence in ({"block_passes": 4}, "4 block passes"), ({"peak": 11}, "a peak of"):
        with pytest.raises(SystemExit, match=f"items 2: {sentence}"):
            growth.refuse_excess(pd.DataFrame([good, {**good, **bad}]))


@pytest.mark.long
def test_growth_of_whole_runs_is_measured():
    growth = benchmark("growth_of_runs")
    sizes = [growth.Size(items=n, options=3, layers=2) for n in (4, 8)]
    rows = [
        {"varied": "items", "value": size.items, **asdict(growth.measure(size))} for size in sizes
    ]
    found = pd.DataFrame(rows)
    assert (found[["load", "run", "tables"]] > 0).all(axis=None)
    text = growth.table(found)
    assert text.count("\n| items") == 2
    planned = growth.measure(growth.Size(planned=8, options=3))
    assert planned.run > 0
    assert planned.tables == planned.comparison == 0


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_real_processes_are_measured(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "busy_machine.py"), "--quick", "--rounds", "1", "--out",
         str(tmp_path / "busy.csv")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "| the command line's |" in done.stdout


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
    study = benchmark("paper_study")
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


@pytest.mark.long
@pytest.mark.smollm2
def test_a_study_is_counted_from_plans_of_its_models(tmp_path, monkeypatch, capsys):
    study = benchmark("paper_study")
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


@pytest.mark.smollm2
@pytest.mark.long
@pytest.mark.filterwarnings(
    "ignore:subprocess .* is still running:ResourceWarning",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)
def test_workers_are_measured_beside_one_process(capsys, tmp_path):
    script = benchmark("ray_workers")
    out = tmp_path / "results" / "rows.csv"
    asked = ["--layers", "2", "--items", "4", "--rounds", "1", "--out", str(out)]
    script.main(asked)
    told = capsys.readouterr().out
    assert list(pd.read_csv(out)["way"]) == list(script.WAYS)
    assert "two workers, one thread each" in told
