"""Toy languages as tokens: one a word, ``<s>`` first, also through TransformerLens and a folder."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from layerwise.models.huggingface.parity_text import TEXT, token_ids
from layerwise.models.instance.facts import original_tokenizer, tokenizer_language
from layerwise.models.libraries.quiet import silence_deprecation
from layerwise.models.libraries.toy_tokenizer import is_toy, read_toy_tokenizer
from layerwise.models.names.registry import BUNDLED, PackagedModel
from layerwise.models.organisms import ORGANISM, Language
from layerwise.models.organisms.tokenizer import toy_tokenizer
from tests.hooked import HookedTransformer, HookedTransformerConfig
from tests.models.tiny import tiny_tokenizer

SMALL = Language("small", 8, 8, 6, 2, 4)


def small_model(tokenizer) -> HookedTransformer:
    cfg = HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=64, d_head=8, n_heads=2, act_fn="relu",
        d_vocab=len(tokenizer), seed=0, model_name="toy",
    )  # fmt: skip
    with silence_deprecation("HookedTransformer"):
        return HookedTransformer(cfg, tokenizer, move_to_device=False).eval()


@pytest.mark.parametrize("language", [ORGANISM, SMALL])
def test_every_word_comes_back(language):
    tokenizer = toy_tokenizer(language)
    ids = tokenizer(" ".join(language.words[3:])).input_ids
    assert ids == [1, *range(3, len(language.words))]
    assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(language.words[3:])
    assert (
        tokenizer("k1  v2\n\n;\tA. Answer:").input_ids == tokenizer("k1 v2 ; A. Answer:").input_ids
    )
    assert tokenizer("museum").input_ids == [1, tokenizer.unk_token_id]


def test_nothing_is_put_first_for_a_t5(tmp_path):
    tokenizer = toy_tokenizer(SMALL, first=None)
    assert tokenizer("ask k1 ->").input_ids == toy_tokenizer(SMALL)("ask k1 ->").input_ids[1:]
    assert tokenizer.bos_token is None
    tokenizer.save_pretrained(tmp_path)
    assert read_toy_tokenizer(tmp_path)("ask k1 ->").input_ids == tokenizer("ask k1 ->").input_ids


def test_a_folder_keeps_it(tmp_path):
    tokenizer = toy_tokenizer(SMALL)
    tokenizer.save_pretrained(tmp_path)
    again = read_toy_tokenizer(tmp_path)
    assert is_toy(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again("ask k1 ->").input_ids == tokenizer("ask k1 ->").input_ids
    assert again.init_kwargs["language"] == "small"
    json.loads((tmp_path / "tokenizer_config.json").read_text())
    tiny_tokenizer().save_pretrained(tmp_path)
    assert not is_toy(tmp_path)
    assert not is_toy(tmp_path / "nowhere")


@pytest.mark.parametrize("model", [one for one in BUNDLED if one.startswith("organism")])
def test_plain_transformers_reads_an_organisms_folder_as_the_docs_say(model):
    packaged = BUNDLED.get(model)
    assert isinstance(packaged, PackagedModel)
    tokenizer = read_toy_tokenizer(packaged.folder)
    words = " ".join(sorted(tokenizer.get_vocab())) + " museum"
    reading = AutoTokenizer if "seq2seq" in model else PreTrainedTokenizerFast
    plain = reading.from_pretrained(packaged.folder)
    assert plain(words).input_ids == tokenizer(words).input_ids
    assert (len(plain), plain.decode([5, 7])) == (len(tokenizer), tokenizer.decode([5, 7]))


def test_transformer_lens_keeps_it():
    model = small_model(toy_tokenizer(SMALL))
    assert model.to_tokens("ask k1 ->")[0].tolist() == toy_tokenizer(SMALL)("ask k1 ->").input_ids
    assert tokenizer_language(original_tokenizer(model)) == "small"
    model.tokenizer = tiny_tokenizer()
    assert tokenizer_language(original_tokenizer(model)) == "text"


def test_parity_is_tried_on_words_that_it_has():
    ids = token_ids(toy_tokenizer(ORGANISM), 128)
    assert len(set(ids)) == len(ids) == 100
    assert token_ids(toy_tokenizer(SMALL), 10) == token_ids(toy_tokenizer(SMALL), 64)[:10]
    plain = tiny_tokenizer()
    assert token_ids(plain, 50) == plain(TEXT).input_ids[:50]
