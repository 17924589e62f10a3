"""Texts to train a tuned lens or a student on: a user's file, or prompts of unmeasured items.

Nothing here runs a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from layerwise import stats
from layerwise.errors import UserError, count_noun
from layerwise.models.instance.kinds import decoder_prefix, is_seq2seq
from layerwise.models.libraries.untrusted_tokenizer import try_texts
from layerwise.runs.setup import Setup
from layerwise.sweep.requests import LogLikelihood, Tokens
from layerwise.tasks import Task, load_task
from layerwise.tasks._encoding import encode, encode_pair
from layerwise.tasks._lines import bad_line, objects
from layerwise.tasks.registry import is_from_suite

# Tokens of a piece of a user's text; items of a task that share their few-shot examples.
LENGTH, ITEMS_A_SEED = 128, 4
FEWEST = 10
HELD_OUT_SHARE = 0.2
# Seeds that are tried for more prompts.
MOST_SEEDS = 200
# A larger file of text is more than any lens is trained on, and is not read into memory.
MOST_BYTES = 2**28


class Text(NamedTuple):
    """One text, and how many of its tokens an encoder reads; its decoder says the others."""

    tokens: Tokens
    n_prompt: int = 0


@dataclass(frozen=True)
class Texts:
    """Texts (or others with tokens) to train on and to test on; no text is in both."""

    train: tuple[Any, ...]
    held_out: tuple[Any, ...]
    source: str  # name of the file or the tasks

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over all of them."""
        return hashlib.sha256(json.dumps([self.train, self.held_out]).encode()).hexdigest()


def split_texts(
    groups: Sequence[Sequence[Any]],
    n_texts: int,
    rng: np.random.Generator,
    source: str,
    trained: str,
) -> Texts:
    """Cut groups of texts that belong together; a fifth of all texts is held out."""
    seen: set[Any] = set()
    whole = [
        [text for text in group if len(text.tokens) > 1 and not (text in seen or seen.add(text))]
        for group in groups
    ]
    kept = [group for group in whole if group]
    if len(kept) == 1:
        kept = [[text] for text in kept[0]]
    order = rng.permutation(len(kept))
    shuffled = [kept[i] for i in order]
    n_all = min(n_texts, sum(map(len, shuffled)))
    if n_texts < FEWEST:
        raise UserError(
            f"At most {n_texts} texts were asked for; expected {FEWEST} at least, for some are "
            "trained on and others held out: ask for more."
        )
    if n_all < FEWEST:
        raise UserError(
            f"Only {count_noun(n_all, 'text')} to train {trained} on came from {source}; expected "
            f"{FEWEST} at least, of two tokens or more: give a longer text."
        )
    held_out: list[Any] = []
    while len(held_out) < HELD_OUT_SHARE * n_all and len(shuffled) > 1:
        held_out += shuffled.pop()
    train = [text for group in shuffled for text in group]
    return Texts(tuple(train[: n_all - len(held_out)]), tuple(held_out), source)


def _for_lens(groups: Sequence[Sequence[Text]], n_texts: int, seed: int, source: str) -> Texts:
    return split_texts(
        groups, n_texts, stats.generator(seed, "texts of the lens"), source, "a tuned lens"
    )


def texts_of_file(path: Path, setup: Setup, n_texts: int) -> Texts:
    """The texts of a file, for a tuned lens."""
    return _for_lens(pieces_of_file(path, setup), n_texts, setup.seed, str(path))


def pieces_of_file(path: Path, setup: Setup) -> list[list[Text]]:
    """A file's texts in pieces of ``LENGTH`` tokens at most, halved for two stacks."""
    cut = _halves if is_seq2seq(setup.model) else _pieces
    length = min(LENGTH, setup.model.cfg.n_ctx)
    return [list(cut(text, setup, length)) for text in read_texts(path)]


def read_texts(path: Path) -> list[str]:
    """The texts of a file, as they stand there: in lines of JSON, or between blank lines."""
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(
            f"Cannot take text from {path}: expected a .txt file, or a .jsonl file with a field "
            "'text' in every line."
        )
    if path.suffix == ".jsonl":
        texts = []
        for number, value in objects(str(path)):
            if not isinstance(value.get("text"), str):
                reason = "not a JSON object with a field 'text' that is a text; correct it"
                raise bad_line(str(path), number, reason)
            texts.append(value["text"])
        return texts
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"Cannot read {path}: expected an ordinary file of UTF-8 text.")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path} has {path.stat().st_size:,} bytes; expected at most {MOST_BYTES:,} of "
                "text: cut the file."
            )
        whole = path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"Cannot read {path} ({error.strerror}): expected a file of UTF-8 text; check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text; save it as UTF-8.") from error
    return [text.strip() for text in whole.split("\n\n") if text.strip()]


def start_tokens(tokenizer: Any, text: str = "") -> Tokens:
    """Tokens that a tokenizer puts before a text."""
    whole = encode(tokenizer, text)  # tried there, too
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    return whole[: len(whole) - len(plain)]


def _pieces(text: str, setup: Setup, length: int) -> Iterator[Text]:
    """A text's tokens in pieces, each with what the tokenizer puts before a text."""
    tokenizer = setup.tokenizer
    start = start_tokens(tokenizer, text)
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    room = length - len(start)
    for at in range(0, len(plain), room):
        yield Text((*start, *plain[at : at + room]))


def _halves(text: str, setup: Setup, length: int) -> Iterator[Text]:
    """Pieces of a text that fit, cut in the middle and encoded as prompt and answer."""
    tokenizer, model = setup.tokenizer, setup.model
    try_texts(tokenizer, text)
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    for at in range(0, len(plain), length):
        piece = plain[at : at + length]
        middle = (len(piece) + 1) // 2
        both = map(tokenizer.decode, (piece[:middle], piece[middle:]))
        given, continued = encode_pair(tokenizer, *both, apart=True)
        n_decoded = len(decoder_prefix(model)) + len(continued) - 1
        if continued and max(len(given), n_decoded) <= model.cfg.n_ctx:
            yield Text((*given, *continued), len(given))


def texts_of_tasks(setup: Setup, n_texts: int) -> Texts:
    """Prompts with their right answers, of built-in suites by other seeds than the measured."""
    tasks = [task for task in setup.tasks if is_from_suite(task)]
    if not tasks:
        raise UserError(
            "A tuned lens is trained on prompts of other items than those measured, and these "
            "tasks cannot make any: give a .txt or .jsonl file with text, or a built-in task."
        )
    measured = {(item.context, item.question) for task in tasks for item in task.items}
    groups: list[list[Text]] = []
    for seed in range(setup.seed + 1, setup.seed + 1 + MOST_SEEDS):
        groups.append([text for task in tasks for text in _prompts(setup, task, seed, measured)])
        if sum(map(len, groups)) >= n_texts:
            break
    source = "prompts of " + ", ".join(task.name for task in tasks)
    return _for_lens(groups, n_texts, setup.seed, source)


def _prompts(
    setup: Setup, task: Task, seed: int, measured: Iterable[tuple[str | None, str]]
) -> Iterator[Text]:
    other = load_task(task.name, seed=seed, fewshot=len(task.fewshot))
    fresh = [item for item in other.items if (item.context, item.question) not in measured]
    for item in fresh[:ITEMS_A_SEED]:
        for protocol in (name for name in setup.protocols if name != "generate"):
            for request in setup.requests(other, item, protocol):
                if request.gold and isinstance(request.request, LogLikelihood):
                    prompt, answer = request.request.context, request.request.continuation
                    yield Text((*prompt, *answer), len(prompt) * is_seq2seq(setup.model))
