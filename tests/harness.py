"""Our items put to lm-evaluation-harness: its tasks, its Hugging Face model, its own evaluation.

It is given the same strings and settles everything else itself; what must agree is in
``test_lm_eval``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerwise.tasks import Item, Task, TaskRequest
from layerwise.tasks._requests import task_template

Requests = Sequence[tuple[TaskRequest, ...]]

# What a task asks its harness for to take the answer that our extractor takes.
FIRST_LINE = {"regex_pattern": r"\S[^\n]*"}
ANSWERS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "first_line": (FIRST_LINE, {"ignore_case": True, "ignore_punctuation": True}),
    "integer": ({"regex_pattern": r"-?\d+"}, {}),
    "symbols": (FIRST_LINE, {"regexes_to_ignore": [r"\s"]}),
}


@dataclass(frozen=True)
class Sample:
    """Sample of the harness for one item.

    An option has a tuple of strings and (log-likelihood, greedy), a text its prompt and itself.
    """

    arguments: list[tuple[Any, ...]]
    responses: list[Any]
    metrics: dict[str, float]


def harness_model(folder: Path, *, batch_size: int = 8) -> Any:
    """The model and tokenizer of a folder, as Hugging Face loads them, in the harness.

    ``add_bos_token`` stays at its default, None: then the tokenizer decides about BOS, as it
    does for us; true or false would add or drop whatever the tokenizer puts first.
    """
    import torch
    from lm_eval.models import huggingface
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Its decorator hides the class's type from type checkers.
    make: Any = huggingface.HFLM
    return make(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def model_that_says(texts: Sequence[str]) -> Any:
    """A model of the harness that gives these texts, whatever it is asked."""
    from lm_eval.api.model import LM

    class Saying(LM):
        def generate_until(self, requests: Any) -> list[str]:
            return list(texts)

        def loglikelihood(self, requests: Any) -> Any:
            raise AssertionError("only texts are asked for")

        loglikelihood_rolling = loglikelihood

    return Saying()


def ask_harness(lm: Any, task: Task, protocol: str, requests: Requests) -> list[Sample]:
    """Evaluate our items with the harness itself, one sample each, in their order."""
    from lm_eval.evaluator import evaluate

    theirs = harness_task(task, protocol, requests)
    results: Any = evaluate(lm, {task.name: theirs}, bootstrap_iters=0)
    return [_sample(one) for one in results["samples"][task.name]]


def harness_task(task: Task, protocol: str, requests: Requests) -> Any:
    """A task of the harness with our prompts as its questions."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    items = zip(task.items, requests, strict=True)
    docs = [document(item, protocol, asked) for item, asked in items]
    common = {
        "task": task.name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(docs)},
        "test_split": "test",
        "doc_to_text": "context",
    }
    kind = _generate_until(task) if protocol == "generate" else _multiple_choice(task, protocol)
    return ConfigurableTask(config={**common, **kind})


def document(item: Item, protocol: str, asked: Sequence[TaskRequest]) -> dict[str, Any]:
    """A row of the harness's data set."""
    if protocol == "generate":
        return {"context": asked[0].context, "answers": [item.answer, *item.aliases]}
    letters = [chr(ord("A") + index) for index in range(len(item.choices))]
    return {
        "context": asked[0].context,
        "choices": letters if protocol == "letter" else list(item.choices),
        "gold": item.choices.index(item.answer),
    }


def _multiple_choice(task: Task, protocol: str) -> dict[str, Any]:
    names = ("acc", "acc_norm", "acc_bytes")
    return {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": task_template(task, protocol).delimiter,
        "metric_list": [_metric(name) for name in names],
    }


def _generate_until(task: Task) -> dict[str, Any]:
    spec = task.generate
    found, compared = ANSWERS[spec.extractor]
    first = {"function": "take_first"}
    return {
        "output_type": "generate_until",
        "doc_to_target": "answers",
        "generation_kwargs": {
            "until": list(spec.stop),
            "max_gen_toks": spec.max_tokens,
            "do_sample": False,
        },
        "filter_list": [{"name": "answer", "filter": [{"function": "regex", **found}, first]}],
        "metric_list": [_metric("exact_match", **compared)],
    }


def _metric(name: str, **settings: Any) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True, **settings}


def _sample(logged: dict[str, Any]) -> Sample:
    responses = [each for (each,) in logged["resps"]]
    metrics = {name: float(logged[name]) for name in logged["metrics"]}
    return Sample([tuple(one) for one in logged["arguments"]], responses, metrics)
