"""Files of tuned lenses: what is changed in one is told, and files of older versions are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from layerwise.analyses.shared.texts import Text
from layerwise.analyses.shared.translators import FILE, TunedLens
from layerwise.analyses.tuned_lens.training import Trainer
from layerwise.errors import UserError
from tests.models.tiny import tiny_model

FACTS = {"model": "tiny", "model_hash": "0" * 64, "seed": 0}
BIAS, WEIGHT = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(0, 1, 48).reshape(3, 4, 4)


def saved(folder: Path) -> Path:
    TunedLens(WEIGHT, BIAS, FACTS).save(folder / FILE)
    return folder / FILE


def written(
    folder: Path, facts: Any = FACTS, text: str | None = None, **tensors: torch.Tensor
) -> Path:
    """A lens file without a checksum, as of older versions, with whatever in it."""
    metadata = {"layerwise.tuned_lens": json.dumps(facts) if text is None else text}
    save_file({"bias": BIAS, "weight": WEIGHT} | tensors, folder / FILE, metadata=metadata)
    return folder / FILE


def test_a_lens_is_read_as_it_was_written(tmp_path):
    path = saved(tmp_path)
    for place in (path, tmp_path, str(path)):
        lens = TunedLens.load(place)
        assert torch.equal(lens.bias, BIAS)
        assert lens.weight is not None
        assert torch.equal(lens.weight, WEIGHT)
        assert lens.facts == FACTS


def test_a_lens_of_a_version_without_checksums_is_read(tmp_path):
    lens = TunedLens.load(written(tmp_path))
    assert lens.hash == TunedLens(WEIGHT, BIAS, FACTS).hash


def test_every_flipped_bit_of_the_tensors_is_told(tmp_path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    data = 4 * (BIAS.numel() + WEIGHT.numel())
    for at in range(len(whole) - data, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"was changed since it was written|NaN or infinity"):
            TunedLens.load(path)


def test_facts_that_were_edited_are_told(tmp_path):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"0" * 64, b"1" * 64))
    with pytest.raises(UserError, match="its checksum differs; train it again"):
        TunedLens.load(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bias": BIAS.clone().fill_(float("nan"))}, "has NaN or infinity in its bias"),
        ({"weight": WEIGHT.clone().fill_(float("inf"))}, "has NaN or infinity in its weight"),
        ({"bias": BIAS.half()}, "has its bias in float16; expected float32"),
        ({"weight": WEIGHT.bfloat16()}, "has its weight in bfloat16; expected float32"),
        ({"bias": BIAS.double()}, "has its bias in float64; expected float32"),
        ({"bias": BIAS[0].clone()}, "has tensors of the shapes"),
        ({"weight": WEIGHT[:, :2].clone()}, "expected (depths, width) and (depths, width, width)"),
        ({"extra": BIAS.clone()}, "has the tensors ['bias', 'extra', 'weight']; expected bias and"),
        ({"facts": []}, "does not tell which model it was trained on"),
        ({"facts": {"model": "tiny"}}, "does not tell which model it was trained on"),
        ({"facts": FACTS | {"model_hash": 3}}, "does not tell which model it was trained on"),
        ({"text": "{"}, "is missing, damaged or not a tuned lens"),
        ({"text": "[" * 100_000}, "is missing, damaged or not a tuned lens"),
        ({"text": "9" * 5000}, "is missing, damaged or not a tuned lens"),
    ],
)
def test_what_no_training_gives_is_refused(tmp_path, changes, says):
    with pytest.raises(UserError) as told:
        TunedLens.load(written(tmp_path, **changes))
    assert says in str(told.value)


def test_a_pipe_is_no_lens_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is missing, damaged or not a tuned lens"):
        TunedLens.load(tmp_path / "pipe")


def test_the_checksum_is_in_the_file(tmp_path):
    with safe_open(saved(tmp_path), "pt") as opened:
        assert len(opened.metadata()["layerwise.sha256"]) == 64


def test_a_lens_of_another_shape_is_refused_at_a_model():
    lens = TunedLens(None, BIAS, FACTS)
    lens.check("0" * 64, ("resid_post",), (3, 4))
    with pytest.raises(UserError, match="has 3 depths of width 4, and the model has 4 of 4"):
        lens.check("0" * 64, ("resid_post",), (4, 4))


def test_a_training_that_diverges_is_told():
    texts = [Text(tuple(range(3, 30))), Text(tuple(range(40, 60)))]
    trainer = Trainer(tiny_model("gpt2"), texts, False, 5, 0.1, 0, 2**28)
    trainer.step()
    trainer.spread.fill_(float("inf"))  # what is translated is no number any more
    with pytest.raises(UserError, match="diverged at step 2 of 5: expected finite translators"):
        trainer.step()
