"""The benchmarks at a tiny size: they run to their tables, and print none for work that differs."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from layerwise.models import load_model, original_tokenizer
from layerwise.models.instance.kinds import over_original
from layerwise.sweep import Generate, LogLikelihood, Scored, intact, skip, sweep
from layerwise.sweep.checks.rounding import measure_rounding
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_folder, tiny_model
from tests.sweep.models import amplifying_model

FOLDER = Path(__file__).parents[1] / "benchmarks"
RUNS = [
    ("loglikelihood_sweep", []),
    pytest.param("loglikelihood_sweep", ["--dtype", "bfloat16"], marks=pytest.mark.long),
    ("generation_sweep", []),
    ("generation_sweep", ["--few-shot", "2"]),
    ("generation_sweep", ["--dtype", "bfloat16"]),
    ("few_shot", []),
    ("transplant_sweep", []),
    pytest.param("backends", [], marks=pytest.mark.hooked_transformer),
]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts find their neighbours in their own folder."""
    monkeypatch.syspath_prepend(FOLDER)
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


@pytest.mark.parametrize(("name", "arguments"), RUNS)
def test_a_table_with_ratios_is_printed(
    name: str, arguments: list[str], folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path))
    benchmark(name).main(["--quick", "--threads", "1", "--model", str(folder), *arguments])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ratio = table[0].index("ratio")
    rows = [row for row in table[2:] if len(row) == len(table[0])]
    assert len(rows) >= 2
    # What the ratios of a tiny model are is of no interest.
    assert all(float(row[ratio]) >= 0 for row in rows)


def test_heads_are_compared_with_hooks(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path))
    benchmark("head_sweep").main(["--quick", "--threads", "1", "--model", str(folder)])
    printed = capsys.readouterr().out
    assert "| heads | items x options |" in printed
    assert "nats apart at most" in printed


def test_hooks_and_engine_are_compared_as_before(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path))
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
    exact, far = rounding.truth[0], rounding.bound - 1e-6
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
    if over_original(flat):
        flat.parts.unembed.weight.data.zero_()
    else:
        flat.unembed.W_U.data.zero_()
        flat.unembed.b_U.data.zero_()
    assert same_work.check_texts(flat, [0], asked, [[text]], [[other]], None) == 1


def test_errors_much_larger_than_the_others_are_refused() -> None:
    same_work = benchmark("same_work")
    assert same_work.check_errors([0.1, 9.0], [0.1, 1.0]).engine == pytest.approx(0.55)
    with pytest.raises(SystemExit, match="The engine errs by"):
        same_work.check_errors([0.2], [0.1])


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
    assert products.rate_of(made.shapes, torch.float32) > 0


def test_operations_needed_are_those_made_where_nothing_is_wasted() -> None:
    script, products = benchmark("loglikelihood_sweep"), benchmark("products")
    model, requests = tiny_model("llama"), [LogLikelihood((5, 6, 7, 8), (9, 10))]
    with products.ProductCounter() as made:
        swept = sweep(model, [intact()], requests)
    weights, attention = script.needed_operations(model, requests, swept.stats.token_passes, 1)
    assert weights == pytest.approx(made.operations, rel=0.1)
    # Five tokens see 1 to 5 keys, 3 in the mean: scores and sums over values.
    assert attention == swept.stats.token_passes * 3 * 4 * 48


def test_a_removed_layer_comes_back(folder: Path) -> None:
    pruned = benchmark("pruned_ways")
    model = pruned.load_original(str(folder), "float32")
    blocks = list(model.model.layers)
    with pruned.without_layer(model, 1):
        assert list(model.model.layers) == [blocks[0], blocks[2]]
        assert [block.self_attn.layer_idx for block in model.model.layers] == [0, 1]
        assert model.config.num_hidden_layers == 2
    assert list(model.model.layers) == blocks
    assert [block.self_attn.layer_idx for block in blocks] == [0, 1, 2]
    assert model.config.num_hidden_layers == 3


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
