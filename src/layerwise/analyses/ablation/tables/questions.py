"""Questions of a run as text, from ``requests.jsonl`` or made again from tasks in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.ground.regular_files import open_regular
from layerwise.storage.file_list import file_hashes
from layerwise.storage.provenance import listed_files
from layerwise.storage.written import REQUESTS_FILE

QUESTIONS = "questions"
KEY = ["task", "protocol", "item"]
_COLUMNS = [*KEY, "prompt", "question", "options", "gold"]
_ITEM = re.compile(rb'\{"item": ("(?:[^"\\]|\\.)*"), "task"')
_TOKENS = b', "context_tokens": '
# Of bytes; what is longer is no line of ours.
_LONGEST_LINE = 2**26
_TEXTS = {"item": str, "task": str, "protocol": str, "context": str, "gold": bool}
_MORE = ("continuation", "answer", "option")


def question_table(lines: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per task, protocol and item: prompt, question, options and right answer.

    ``question`` is the prompt without the whole lines that all prompts of a cell begin with.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in lines:
        key = line["task"], line["protocol"], line["item"]
        # An option that a prompt of its own ends with belongs to what is scored after it.
        ends, option = line.get("option") or "", line.get("continuation")
        prompt = line["context"].removesuffix(ends)
        row = rows.setdefault(key, {"prompt": prompt, "options": [], "gold": None})
        if prompt != row["prompt"] and not ends:
            continue
        option = option if option is None else ends + option
        if option is None:
            row["gold"] = line.get("answer")
        elif option not in row["options"]:
            row["options"].append(option)
            row["gold"] = option.strip() if line["gold"] else row["gold"]
    prompts: dict[tuple[str, str], list[str]] = {}
    for (task, protocol, _), row in rows.items():
        prompts.setdefault((task, protocol), []).append(row["prompt"])
    # the length of the whole lines with which all prompts of a task and protocol begin, which are
    # those with which the first and the last in order begin
    shared = dict.fromkeys(prompts, 0)
    for key, texts in prompts.items():
        ends = (text.split("\n")[:-1] for text in (min(texts), max(texts)))
        same = takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
        shared[key] = sum(len(line) + 1 for line, _ in same) if len(texts) > 1 else 0
    made = []
    for key, row in rows.items():
        prompt, options = row["prompt"], [option.strip() for option in row["options"]]
        made.append([*key, prompt, prompt[shared[key[:2]] :], options, row["gold"]])
    return pd.DataFrame(made, columns=_COLUMNS)


def read_questions(folder: Path, items: frozenset[str]) -> pd.DataFrame:
    """The questions of a saved run; none if their file is missing, or was changed."""
    path, digest = folder / REQUESTS_FILE, (listed_files(folder) or {}).get(REQUESTS_FILE)
    if digest is not None and file_hashes(folder, [REQUESTS_FILE]) != {REQUESTS_FILE: digest}:
        return question_table([])
    return question_table(_lines(path, items))


def _lines(path: Path, items: frozenset[str]) -> Iterator[dict[str, Any]]:
    try:
        with open_regular(path) as file:
            for line in iter(lambda: file.readline(_LONGEST_LINE), b""):
                named = _ITEM.match(line)
                read = (
                    named
                    and _read_json(named[1]) in items
                    and _read_json(line.partition(_TOKENS)[0], "}")
                )
                if (
                    isinstance(read, dict)
                    and all(isinstance(read.get(name), kind) for name, kind in _TEXTS.items())
                    and all(isinstance(read.get(name), str | None) for name in _MORE)
                ):
                    yield read
    except OSError:
        return


def _read_json(text: bytes, end: str = "") -> Any:
    """A value of JSON; None where there is none."""
    try:
        return json.loads(text.decode() + end)
    except (ValueError, RecursionError):
        return None
