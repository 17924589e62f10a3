"""Every family against Hugging Face: logits with padding, cached steps, greedy text, loading."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from layerwise.errors import UserError
from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.models.conversion import parity
from layerwise.models.huggingface.parity_text import parity_texts
from layerwise.models.instance.facts import weights_hash
from layerwise.models.meta_model import (
    is_meta_model,
    load_meta_model,
    meta_model_facts,
)
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.load import decoder_prefix, hooked_seq2seq
from tests.models.seq2seq.tiny import CASES, tiny_folder, tiny_original, tiny_seq2seq
from tests.models.tiny import TEXT, tiny_tokenizer


@functools.cache
@torch.inference_mode(False)
def tolerance(case: str) -> float:
    """Tolerance of logits, in nats: as rounding explains, which gated T5s amplify."""
    texts = parity_texts(tiny_seq2seq(case), tiny_tokenizer())
    exact = parity.exact(tiny_original(case), lambda one: parity.reference(one, texts))
    return max(1e-4, parity.MULTIPLE * exact.rounding)


def _tokens(n_pos: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 300, (3, n_pos), generator=torch.Generator().manual_seed(seed))


def _mask(n_pos: int, *, left: bool = False) -> torch.Tensor:
    mask = torch.ones(3, n_pos, dtype=torch.bool)
    if left:
        mask[1, : n_pos // 2] = mask[2, :1] = False
    else:
        mask[1, n_pos // 2 :] = mask[2, -1:] = False
    return mask


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits_equal_those_of_hugging_face_with_padding(case: str, left: bool) -> None:
    original, model = tiny_original(case), tiny_seq2seq(case)
    for n_pos, n_said in ((1, 1), (12, 5), (40, 25)):
        tokens, said = _tokens(n_pos), _tokens(n_said, 2)
        mask = _mask(n_pos, left=left) if n_pos > 1 else torch.ones(3, 1, dtype=torch.bool)
        said_mask = _mask(n_said, left=left) if n_said > 1 else torch.ones(3, 1, dtype=torch.bool)
        expected = original(
            input_ids=tokens,
            attention_mask=mask.long(),
            decoder_input_ids=said,
            decoder_attention_mask=said_mask.long(),
            use_cache=False,
        ).logits
        given = model(tokens, said, mask, said_mask)
        assert expected.std() > 0.1
        torch.testing.assert_close(
            given[said_mask], expected[said_mask], atol=tolerance(case), rtol=0
        )


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_cached_steps_equal_one_run(case: str) -> None:
    model, tokens, said, mask = tiny_seq2seq(case), _tokens(12), _tokens(9, 2), _mask(12)
    memory, cache = model.encode(tokens, mask), []
    whole = model.decode(said, memory, mask)
    for start, end in ((0, 4), (4, 5), (5, 9)):
        part = model.decode(said[:, start:end], memory, mask, cache=cache)
        torch.testing.assert_close(part, whole[:, start:end], atol=tolerance(case), rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_greedy_text_is_that_of_hugging_face(case: str) -> None:
    original, model, tokens, mask = tiny_original(case), tiny_seq2seq(case), _tokens(12), _mask(12)
    greedy = GenerationConfig(
        max_new_tokens=10, do_sample=False, num_beams=1, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=model.prefix[0],
    )  # fmt: skip
    expected = original.generate(
        input_ids=tokens, attention_mask=mask.long(), generation_config=greedy
    )[:, 1:]
    for use_cache in (True, False):
        given = model.generate(tokens, 10, attention_mask=mask, use_cache=use_cache)
        assert given.shape == (3, 10)
        assert [_until_end(row) for row in given] == [_until_end(row) for row in expected]


def _until_end(row: torch.Tensor) -> list[int]:
    """Tokens before those that Hugging Face pads from the end token on."""
    tokens = row.tolist()
    return tokens[: tokens.index(1) + 1] if 1 in tokens else tokens


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_a_copy_reads_its_own_weights(case: str) -> None:
    model, tokens, said = tiny_seq2seq(case), _tokens(6), _tokens(4, 2)
    copied = copy.deepcopy(model).to(torch.float64)
    before, wide = model(tokens, said), copied(tokens, said)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), before, atol=tolerance(case), rtol=0)
    for weight in [*copied.parameters(), *copied.buffers()]:
        weight.data.zero_()
    assert not copied(tokens, said).any()
    assert torch.equal(model(tokens, said), before)


@pytest.mark.parametrize("case", CASES)
def test_a_folder_is_loaded_and_compared(case: str) -> None:
    model = load_model(tiny_folder(case))
    assert isinstance(model, Seq2SeqModel)
    facts, config = model_facts(model), tiny_original(case).config
    assert facts.parity is not None
    assert facts.parity <= tolerance(case)
    assert facts.n_parameters == tiny_original(case).num_parameters()
    assert facts.n_layers - facts.n_encoder_layers == len(model.decoder.blocks)
    assert facts.d_model == config.d_model
    assert original_tokenizer(model)(TEXT).input_ids == model.to_tokens(TEXT)[0].tolist()


def test_the_hash_covers_what_is_added_to_logits() -> None:
    model = tiny_seq2seq("bart")
    before = weights_hash(model)
    bias = tiny_original("bart").final_logits_bias
    bias[0, 3] += 1
    assert weights_hash(model) != before
    bias[0, 3] -= 1


def test_the_decoder_begins_as_in_training() -> None:
    original = tiny_original("bart")
    plain, with_start = tiny_tokenizer(), tiny_tokenizer(bos=True)
    assert decoder_prefix(original, plain, "x") == (1,)
    assert decoder_prefix(original, with_start, "x") == (1, 0)
    assert hooked_seq2seq(original, with_start, "x").prefix == (1, 0)
    original.generation_config.forced_bos_token_id = 7
    assert decoder_prefix(original, with_start, "x") == (1, 7)
    original.generation_config.forced_bos_token_id = None


def test_a_model_without_a_start_token_is_refused() -> None:
    original = tiny_original("mbart")
    before = original.config.decoder_start_token_id
    original.config.decoder_start_token_id = None
    original.generation_config.decoder_start_token_id = None
    with pytest.raises(UserError, match="with which token its decoder begins"):
        decoder_prefix(original, tiny_tokenizer(), "x")
    original.config.decoder_start_token_id = before
    original.generation_config.decoder_start_token_id = before


def test_a_folder_that_names_no_start_token_is_refused(tmp_path: Path) -> None:
    """Not even under its name: T5's configuration then has no such field at all."""
    folder = tmp_path / "t5"
    shutil.copytree(tiny_folder("t5"), folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    fields = json.loads((folder / "config.json").read_text())
    fields.pop("decoder_start_token_id", None)
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="does not say with which token its decoder begins"):
        load_model(str(folder))


def test_offload_is_refused() -> None:
    with pytest.raises(UserError, match="expected no offload"):
        load_model(tiny_folder("t5"), offload="disk")


@pytest.mark.parametrize("case", ["flan-t5", "bart"])
def test_an_outline_has_the_sizes_and_no_weights(case: str) -> None:
    outline, model = load_meta_model(tiny_folder(case)), load_model(tiny_folder(case))
    assert is_meta_model(outline)
    assert outline.cfg == model.cfg
    assert meta_model_facts(outline).n_encoder_layers == model_facts(model).n_encoder_layers > 0
