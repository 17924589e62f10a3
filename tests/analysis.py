"""Small tasks and models for the tests of the analyses, and what those tests work out by hand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from layerwise.models import original_tokenizer
from layerwise.models.instance.kinds import Model
from layerwise.runs.setup import prepare
from layerwise.storage.schemas import SCHEMAS
from layerwise.sweep import intact, skip_layers
from layerwise.tasks import Corruption, GenerateSpec, Item, Task, Template, load_task
from tests.hooked import HookedTransformer

# Under ``tiny_tokenizer`` these begin with different tokens when a space stands before them.
WORDS = ("key", "red", "blue", "seven", "two", "four", "door", "what", "open")


def word_task(n_items: int = 4, name: str = "words", seed: int = 0, **changes: Any) -> Task:
    """Questions about words with three choices; the answers mean nothing, and are balanced."""
    rng = np.random.default_rng(seed)
    items = []
    for index in range(n_items):
        first, second, *choices = (str(word) for word in rng.permutation(WORDS)[:5])
        items.append(
            Item(
                id=f"{name}/{index:04d}",
                question=f"the {first} of the {second} is",
                answer=choices[index % 3],
                choices=tuple(choices),
            )
        )
    fields: dict[str, Any] = {
        "name": name,
        "capability": "knowledge",
        "description": "words",
        "items": tuple(items),
        "fewshot": (),
        "generate": GenerateSpec((".", "\n"), 4, "first_word"),
        "chance": {"letter": 1 / 3, "continuation": 1 / 3, "generate": 1 / 3},
        "template": Template(question_prefix="Question: ", answer_cue="\nAnswer:"),
    }
    return Task(**{**fields, **changes})


def distinct(task: Task) -> Task:
    """The same with a number behind each question that was asked before: repeats are one item."""
    asked, items = set(), []
    for index, item in enumerate(task.items):
        again = item.question in asked
        asked.add(item.question)
        items.append(replace(item, question=item.question + f" {index}" * again))
    return replace(task, items=tuple(items))


def with_preferred_answers(model: HookedTransformer, task: Task) -> Task:
    """The same questions, with the model's own preferred choice as the answer.

    So the intact model is always right under ``continuation``, and losing that is an effect. A
    random model answers much the same whatever it is asked; every answer is an alias of every
    other, so that no other question can be asked in its place.
    """
    tokenizer = original_tokenizer(model)
    every = tuple(dict.fromkeys(choice for item in task.items for choice in item.choices))

    def preferred(item: Item) -> str:
        template = task.template
        prompt = template.question_prefix + item.question + template.answer_cue
        scores = [
            text_logprob(model, tokenizer, prompt, template.delimiter + choice)
            for choice in item.choices
        ]
        return item.choices[int(np.argmax(scores))]

    items = (replace(item, answer=preferred(item), aliases=every) for item in task.items)
    return replace(task, items=tuple(items))


def decided_by_layers(
    model: Model, task: Task, n_items: int, protocol: str = "continuation"
) -> Task:
    """The first items of which the model prefers another choice than it does without any layer.

    Its own choice is the answer, so that it is always right and has signal: a random model's
    layers hardly change which choice it prefers. Other questions cannot be asked in their place,
    as in ``with_preferred_answers``.
    """
    task = distinct(task)
    setup = prepare(model, task, protocol)
    asked = [setup.requests(task, item, protocol) for item in task.items]
    changes = [intact(), skip_layers(range(model.cfg.n_layers))]
    found = iter(zip(*setup.sweep(changes, [r.request for one in asked for r in one]).outcomes,
                     strict=True))  # fmt: skip
    every = tuple(dict.fromkeys(choice for item in task.items for choice in item.choices))
    items = []
    for item, requests in zip(task.items, asked, strict=True):
        scores = [[one.logprob for one in next(found)] for _ in requests]
        best, without_layers = np.argmax(scores, axis=0)
        if best != without_layers:
            items.append(replace(item, answer=item.choices[best], aliases=every))
    assert len(items) >= n_items
    return replace(task, items=tuple(items[:n_items]))


@torch.inference_mode()
def first_logits(model: HookedTransformer, question: str) -> np.ndarray:
    """Logits of the first tokens of ``WORDS`` where the answer to a question begins."""
    tokenizer = original_tokenizer(model)
    prompt = tokenizer(f"Question: {question}\nAnswer:").input_ids
    logits = model(torch.tensor([prompt]))[0, -1]
    return logits[[tokenizer(" " + word).input_ids[0] for word in WORDS]].numpy()


def prompt_pair(model: HookedTransformer, name: str, clean: str, corrupted: str) -> Item | None:
    """An item of which the model prefers the right answer in both prompts, if there is one."""
    one, other = first_logits(model, clean), first_logits(model, corrupted)
    for right, wrong in product(range(len(WORDS)), repeat=2):
        if one[right] > one[wrong] and other[wrong] > other[right]:
            change = Corruption(corrupted, WORDS[wrong])
            choices = (WORDS[right], WORDS[wrong])
            return Item(name, clean, choices[0], choices, corruption=change)
    return None


def text_logprob(model: HookedTransformer, tokenizer: Any, prompt: str, rest: str) -> float:
    """Log-probability of a text after a prompt, by one plain forward."""
    start = tokenizer(prompt).input_ids
    return logprob(model, start, tokenizer(prompt + rest).input_ids[len(start) :])


@torch.inference_mode()
def logprob(
    model: HookedTransformer,
    context: Sequence[int],
    continuation: Sequence[int],
    hooks: Sequence[tuple[str, Callable[..., Any]]] = (),
) -> float:
    """Log-probability of a continuation in nats, by one plain hooked forward."""
    tokens = torch.tensor([[*context, *continuation]])
    logprobs = model.run_with_hooks(tokens, fwd_hooks=list(hooks))[0].log_softmax(-1)
    first = len(context) - 1
    return sum(float(logprobs[first + i, token]) for i, token in enumerate(continuation))


@torch.inference_mode()
def greedy_text(
    model: HookedTransformer,
    context: Sequence[int],
    max_tokens: int,
    stop: Sequence[str],
    hooks: Sequence[tuple[str, Callable[..., Any]]] = (),
) -> str:
    """The most likely text up to a stop string, each token by a plain hooked forward."""
    tokenizer = original_tokenizer(model)
    tokens = list(context)
    while len(tokens) < len(context) + max_tokens and tokens[-1] != tokenizer.eos_token_id:
        logits = model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=list(hooks))
        tokens.append(int(logits[0, -1].argmax()))
    text = tokenizer.decode(tokens[len(context) :], skip_special_tokens=True)
    return re.split("|".join(map(re.escape, stop)), text)[0]


def write_jsonl(path: Path, items: Iterable[Item], **fields: Any) -> Path:
    """A user's file with these items; ``fields`` go into every line."""
    lines = (
        {
            "id": item.id,
            "question": item.question,
            "answer": item.answer,
            **({"choices": list(item.choices)} if item.choices else {}),
            **fields,
        }
        for item in items
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def solved_file(model: HookedTransformer, path: Path, n_items: int, **fields: Any) -> Path:
    """A user's file without few-shot examples (ask for none) that the model always gets right.

    It does so by its layers, and not by what all items have in common (``decided_by_layers``).
    """
    write_jsonl(path, one_question(15 * n_items, path.stem))
    items = decided_by_layers(model, load_task(str(path), fewshot=0), n_items).items
    numbered = (replace(item, id=f"{path.stem}/{i:04d}") for i, item in enumerate(items))
    return write_jsonl(path, numbered, **fields)


def one_question(n_items: int, name: str) -> list[Item]:
    """One question about other options each time, so that there is no other to ask.

    No option comes twice, so that what the model likes does not tell which is right in others, and
    those of an item begin with different words.
    """
    asked = word_task(n_items, name).items
    rng = np.random.default_rng(0)
    rest = {
        word: rng.permutation(list(permutations([w for w in WORDS if w != word], 3))).tolist()
        for word in WORDS
    }
    items = []
    for item in asked:
        first = rng.permutation(WORDS)[:3].tolist()
        choices = tuple(" ".join([word, *rest[word].pop()]) for word in first)
        items.append(replace(item, question=asked[0].question, answer=choices[0], choices=choices))
    return items


def edited_folder(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a model's folder, beside it, with its weights changed by ``edit``."""
    copy = folder.with_name(folder.name + "-edited")
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    edit(weights)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def documented_columns(table: str) -> list[str]:
    """The columns that ``docs/results.md`` gives a table, in its order."""
    return SCHEMAS[table.removesuffix(".parquet")].names
