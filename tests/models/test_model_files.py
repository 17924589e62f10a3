"""Every file that a tokenizer reads belongs to its model: to its hash, its copies, its download."""

from __future__ import annotations

import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import transformers

from layerwise.models import load_model, model_facts, original_tokenizer
from layerwise.models.files import cache
from layerwise.models.files.folder import has_tokenizer
from layerwise.models.files.written_folder import copy_others
from layerwise.models.names import sources
from tests.models.seq2seq.tiny import tiny_folder as tiny_seq2seq_folder
from tests.models.tiny import CORPUS, tiny_folder

sentencepiece = pytest.importorskip("sentencepiece")


def known_vocabularies() -> set[str]:
    """The names of files that tokenizers of transformers read."""
    names = set()
    for path in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for table in re.findall(r"VOCAB_FILES_NAMES = \{(.*?)\}", path.read_text("utf-8"), re.S):
            names |= set(re.findall(r': "([^"]+)"', table))
    return names


def test_no_file_that_a_tokenizer_reads_is_left_out(tmp_path):
    names = known_vocabularies() | {"chat_template.jinja", "special_tokens_map.json"}
    assert {"source.spm", "sentencepiece.bpe.model", "merges.txt"} < names
    folder, copy = tmp_path / "model", tmp_path / "copy"
    folder.mkdir()
    copy.mkdir()
    hashes = {cache.folder_sha256(folder)}
    for name in names:
        (folder / name).write_text("a")
        hashes.add(cache.folder_sha256(folder))
    assert len(hashes) == len(names) + 1
    copy_others(folder, copy)
    assert {path.name for path in copy.iterdir()} == names
    assert [name for name in names if not any(fnmatch(name, one) for one in sources._OUTLINE)] == []


@pytest.fixture(scope="module")
def marian(tmp_path_factory) -> Path:
    """A Marian whose tokenizer consists of two files of sentencepiece and a vocabulary."""
    folder = tmp_path_factory.mktemp("models") / "marian"
    shutil.copytree(tiny_seq2seq_folder("marian"), folder)
    with (folder / "source.spm").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=9,
        )
    shutil.copyfile(folder / "source.spm", folder / "target.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    words = ["</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, len(pieces))), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}')
    return folder


@pytest.mark.filterwarnings("ignore:Recommended")  # of a package for punctuation
def test_a_flipped_bit_in_marians_sentencepieces_is_another_model(marian, tmp_path):
    before = load_model(marian)
    folder = tmp_path / "flipped"
    shutil.copytree(marian, folder)
    content = bytearray((folder / "source.spm").read_bytes())
    piece = max(original_tokenizer(before).tokenize("the red door"), key=len)
    content[content.index(piece.encode()) + len(piece.encode()) - 1] ^= 1
    (folder / "source.spm").write_bytes(content)
    after = load_model(folder)
    ids = [original_tokenizer(model)("the red door").input_ids for model in (before, after)]
    assert ids[0] != ids[1]
    assert model_facts(before).hash == model_facts(after).hash
    assert model_facts(before).source_hash != model_facts(after).source_hash


def test_a_folder_with_sentencepieces_alone_has_a_tokenizer(tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    assert has_tokenizer(tmp_path)


def test_a_template_that_takes_the_place_of_the_default_is_in_the_hash(tmp_path):
    folder = tiny_folder(tmp_path, "llama")
    before = model_facts(load_model(folder)).source_hash
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text("other")
    model = load_model(folder)
    assert original_tokenizer(model).chat_template == "other"
    assert model_facts(model).source_hash != before
