"""Encoder-decoders written without layers, against Hugging Face's own modules without them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import layerwise as lw
from layerwise.models import load_model
from layerwise.models.seq2seq import Seq2SeqModel
from tests import analysis, commands
from tests.analysis import word_task
from tests.models.seq2seq.tiny import CASES, tiny_folder
from tests.models.tiny import TEXT

FIELDS = {"T5Config": ("num_layers", "num_decoder_layers")}
FIELDS["MT5Config"] = FIELDS["T5Config"]
# By day those whose weights and settings have other names; the others' are T5's or BART's.
NAMED = ("t5", "flan-t5", "bart", "marian")
MODELS = [
    pytest.param(case, 0, marks=[] if case in NAMED else pytest.mark.long)
    for case in CASES
    if case != "t5-one-layer"
] + [("t5", 1), ("bart", 1)]


def original(folder: Path) -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()


def stacks(model: Any) -> list[torch.nn.ModuleList]:
    return [getattr(stack, "block", None) or stack.layers
            for stack in (model.get_encoder(), model.get_decoder())]  # fmt: skip


def without_layers(model: Any, removed: list[tuple[int, int]]) -> Any:
    """The Hugging Face model with the modules of some layers taken out of their lists."""
    for blocks, stack in zip(stacks(model), (0, 1), strict=True):
        first = blocks[0]
        gone = [layer for of, layer in removed if of == stack]
        for layer in sorted(gone, reverse=True):
            del blocks[layer]
        if 0 in gone and hasattr(first, "layer"):  # T5's first block has the bias for all
            attention, given = blocks[0].layer[0].SelfAttention, first.layer[0].SelfAttention
            attention.has_relative_attention_bias = True
            attention.relative_attention_bias = given.relative_attention_bias
    return model


@torch.inference_mode()
def logits(model: Any, folder: Path) -> torch.Tensor:
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    said = torch.cat([torch.tensor([[model.config.decoder_start_token_id]]), tokens[:, :9]], dim=1)
    return model(input_ids=tokens, decoder_input_ids=said, use_cache=False).logits


@pytest.mark.parametrize(("case", "layer"), MODELS)
def test_the_written_model_is_the_original_without_the_modules(
    tmp_path: Path, case: str, layer: int
) -> None:
    folder = tiny_folder(case)
    removed = [f"encoder.{layer}", f"decoder.{layer}"]
    result = lw.prune_model(load_model(folder), removed, tmp_path / "out", word_task(3))
    expected = without_layers(original(folder), [(0, layer), (1, layer)])
    written = original(tmp_path / "out")
    found = logits(written, folder)
    torch.testing.assert_close(found, logits(expected, folder), atol=1e-5, rtol=0)
    assert (found - logits(original(folder), folder)).abs().max() > 1e-2
    table = result.pruning
    gap = table["predicted_gold_logprob"] - table["measured_gold_logprob"]
    assert gap.abs().max() < 1e-4
    assert (table["intact_gold_logprob"] - table["measured_gold_logprob"]).abs().max() > 1e-3
    wrote = table.loc[table["protocol"] == "generate"]
    assert (wrote["predicted_generated"] == wrote["measured_generated"]).all()
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    known = CASES[case]
    for name in FIELDS.get(known.config, ("encoder_layers", "decoder_layers")):
        assert fields[name] == known.given[name] - 1


@pytest.mark.parametrize("removed", [["encoder.0"], ["encoder.0", "encoder.1"]])
def test_the_bias_of_all_layers_goes_to_the_first_that_is_left(
    tmp_path: Path, removed: list[str]
) -> None:
    lw.prune_model(load_model(tiny_folder("t5")), removed, tmp_path / "out", word_task(2))
    before, after = (load_file(f / "model.safetensors") for f in (tiny_folder("t5"),
                                                                  tmp_path / "out"))  # fmt: skip
    end = "layer.0.SelfAttention.relative_attention_bias.weight"
    assert [name for name in after if name.startswith("encoder") and name.endswith(end)] == [
        f"encoder.block.0.{end}"
    ]
    first = len(removed)
    for name, tensor in after.items():
        _, _, number, *_ = [*name.split(".", 3), "", "", ""]
        moved = name.startswith("encoder.block.") and not name.endswith(end)
        of = name.replace(f".{number}.", f".{int(number) + first}.", 1) if moved else name
        assert torch.equal(tensor, before[of])


def test_a_decoder_of_another_length_than_the_encoder_is_said_to_be(tmp_path: Path) -> None:
    """T5's configuration may leave out the decoder's layers where they are as many."""
    folder = tmp_path / "equal"
    lw.prune_model(load_model(tiny_folder("t5")), ["encoder.1"], folder, word_task(2))
    fields = json.loads((folder / "config.json").read_text())
    del fields["num_decoder_layers"]
    (folder / "config.json").write_text(json.dumps(fields))
    lw.prune_model(load_model(folder), ["decoder.1"], tmp_path / "out", word_task(2))
    written = load_model(tmp_path / "out")
    assert isinstance(written, Seq2SeqModel)
    assert (written.cfg.n_encoder_layers, written.cfg.n_decoder_layers) == (2, 1)


def test_names_without_the_head_of_the_model_are_known_too(tmp_path: Path) -> None:
    """Some published weights are of the model alone: ``encoder.layers``, without ``model.``."""
    tiny_folder("bart")
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in tiny_folder("bart").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    kept = load_file(folder / "model.safetensors")
    kept.pop("final_logits_bias")
    bare = {name.removeprefix("model."): tensor for name, tensor in kept.items()}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    result = lw.prune_model(load_model(folder), ["decoder.2", 0], tmp_path / "out", word_task(2))
    assert result.facts.settings["removed"] == [0, 4]
    expected = without_layers(copy.deepcopy(original(folder)), [(0, 0), (1, 2)])
    found = logits(original(tmp_path / "out"), folder)
    torch.testing.assert_close(found, logits(expected, folder), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("removed", "says"),
    [
        ("encoder.0-2", "All 3 layers of the encoder would be removed: expected that at least"),
        ("decoder.0-1,encoder.1", "All 2 layers of the decoder would be removed: expected that"),
        ("encoder.3", "There is no layer 'encoder.3': expected one of encoder.0 to encoder.2, "),
        ("middle.1", "Cannot read layers 'middle.1': expected numbers and ranges like 0-5,9, or"),
        ("7", "Layer 7 is out of range: the model has layers 0 to 4."),
    ],
)
def test_what_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    analysis.write_jsonl(tmp_path / "words.jsonl", word_task(2).items)
    commands.refused(
        "prune", tiny_folder("t5"), "--remove", removed, "--out", "new", "--task", "words.jsonl",
        says=says, unchanged=tmp_path,
    )  # fmt: skip
