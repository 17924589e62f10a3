"""Tasks of lm-evaluation-harness here: the same scores as its own run, to the last item."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import layerwise
from layerwise.analyses.ablation.tables.questions import question_table
from layerwise.errors import UserError
from layerwise.lm_eval import LM
from layerwise.models import load_model, original_tokenizer
from layerwise.models.names.sources import find_source
from layerwise.runs.records import text_line
from layerwise.stats.signals.power import items_for_signal
from layerwise.sweep import Intervention, intact, skip, sweep
from layerwise.tasks import (
    Task,
    build_requests,
    expand_task_names,
    load_task,
    score,
)
from layerwise.tasks.harness import finding, from_lm_eval
from layerwise.tasks.other_questions import with_other_questions
from tests.cases import in_long_runs
from tests.harness import harness_model
from tests.models.real import smollm2
from tests.models.tiny import tiny_folder
from tests.tasks.tokenizers import CHAT

RIVERS = [
    ("Which river flows through Vienna?", ["Rhine", "Danube", "Seine", "Po"], 1),
    ("Which flows through Paris?", ["the Seine", "the Rhine", "the Po"], 0),
    ("Which one flows through Cologne?", ["Po", "Danube", "Rhine"], 2),
    ("And which flows through Turin?", ["Danube", "Seine", "Po"], 2),
    ("Which of them flows through Basel?", ["Rhine", "Seine"], 0),
]
ROWS = [
    {
        "question": question,
        "choices": choices,
        "label": label,
        "answer": choices[label],
        "filled": [f"{question[6:-1]} by {choice}" for choice in choices],
        "rest": f"past {label + 2} castles.",
    }
    for question, choices, label in RIVERS
]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
DESCRIBED = {
    **CHOICE,
    "description": "Rivers of {{choices | length}} lands.\n\n",
    "gen_prefix": "The",
}
FILLED = {
    **CHOICE,
    "doc_to_text": "label",
    "doc_to_choice": "filled",
    "doc_to_target": "rest",
    "metric_list": [{"metric": "acc"}],
}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "answer",
    "generation_kwargs": {"until": ["e", " is"], "max_gen_toks": 9, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "ignore_case": True}],
}
REMOVED = ("examples", "filtered", *in_long_runs(("mutual-information",), ("filled-examples",)))
IN_CHAT = (
    "examples", "described", "filled-examples", "next-word", "written-described",
    *in_long_runs(("texts",), ("letters",), ("described-examples",), ("filled",), ("written",)),
)  # fmt: skip
FIRST = [{"function": "regex", "regex_pattern": "([a-z])"}, {"function": "take_first"}]
EXAMPLES = {"num_fewshot": 2, "fewshot_split": "train"}
LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question.rsplit(' ', 1)[0]}}",
    "doc_to_target": "{{' ' + question.rsplit(' ', 1)[1]}}",
    "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
}
SEVERAL = [
    {"name": "whole", "filter": [{"function": "take_first"}]},
    {"name": "first", "filter": FIRST},
]
MUTUAL = [{"metric": "acc"}, {"metric": "acc_mutual_info"}]
BRIEF = {"description": "Be short.", "gen_prefix": "The river is", "num_fewshot": 1}
TASKS: dict[str, dict[str, Any]] = {
    "texts": CHOICE,
    "examples": {**CHOICE, **EXAMPLES},
    "own-examples": {**CHOICE, "num_fewshot": 2},
    "described": DESCRIBED,
    "described-examples": {**DESCRIBED, **EXAMPLES},
    "filled": FILLED,
    "filled-examples": {**FILLED, **EXAMPLES},
    "letters": {**CHOICE, "doc_to_choice": ["A", "B"], "doc_to_target": "{{label % 2}}"},
    "target-as-text": {**CHOICE, "doc_to_target": "answer", "target_delimiter": ""},
    "mutual-information": {**CHOICE, "metric_list": MUTUAL},
    "trailing-space": {**CHOICE, "doc_to_text": "{{question}} "},
    "next-word": LAST_WORD,
    "written": WRITTEN,
    "written-described": {**WRITTEN, **BRIEF},
    "filtered": {
        **WRITTEN,
        "doc_to_target": "{{'abcdefghijklm' | list}}",
        "filter_list": [{"name": "first", "filter": FIRST}],
    },
    "several-filters": {**WRITTEN, **EXAMPLES, "num_fewshot": 1, "filter_list": SEVERAL},
}


@dataclass(frozen=True)
class HereAndHarness:
    """A folder of tasks, and one model here and in the harness."""

    folder: Path
    model: Any
    lm: Any


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets.config
    import huggingface_hub.constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module", autouse=True)
def a_short_list() -> Iterator[None]:
    """The harness lists a few folders of its tasks: all of them take ten seconds."""
    from lm_eval import tasks

    own = finding.own_folder()
    few = [own / name for name in ("arc", "winogrande", "mmlu/default")]
    whole = tasks.TaskManager

    def listed(include_defaults: bool = True) -> Any:
        return whole(include_path=few if include_defaults else None, include_defaults=False)

    finding.task_manager.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TaskManager", listed)
        yield
    finding.task_manager.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def no_environment() -> Iterator[None]:
    """The harness runs pip twice for each of its results, to say what is installed."""
    from lm_eval import evaluator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "add_env_info", lambda results: None)
        yield


@pytest.fixture(scope="module")
def here_and_harness(tmp_path_factory: pytest.TempPathFactory) -> HereAndHarness:
    folder = tmp_path_factory.mktemp("tasks")
    for split, rows in (("train", ROWS[:3]), ("test", ROWS)):
        text = "\n".join(map(json.dumps, rows))
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    for name, config in TASKS.items():
        write_task(folder, name, config)
    weights = tiny_folder(tmp_path_factory.mktemp("models"), "llama", max_position_embeddings=1024)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = load_model(weights)
    return HereAndHarness(folder, model, harness_model(weights))


def write_task(folder: Path, name: str, config: dict[str, Any], *, suffix: str = "") -> str:
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    whole = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "training_split": "train",
        "test_split": "test",
        **config,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(whole) + suffix, encoding="utf-8")
    return f"lm-eval:{path}"


@cache
def theirs(lm: Any, path: Path, **settings: Any) -> list[dict[str, Any]]:
    """The samples of the harness's own run."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    # Its decorator hides the function's type from type checkers.
    run: Any = evaluator.simple_evaluate
    manager = TaskManager(include_defaults=False)
    results = run(model=lm, tasks=[str(path)], task_manager=manager, bootstrap_iters=0, **settings)
    (samples,) = results["samples"].values()
    return samples


def ours(
    model: Any, task: Task, protocol: str, change: Intervention, *, chat: bool = False
) -> list[Any]:
    tokenizer = original_tokenizer(model)
    asked = [build_requests(task, item, protocol, tokenizer, chat=chat) for item in task.items]
    requests = [one.request for each in asked for one in each]
    outcomes = iter(sweep(model, [change], requests).outcomes[0])
    return [
        score(task, item, protocol, each, [next(outcomes) for _ in each])
        for item, each in zip(task.items, asked, strict=True)
    ]


@pytest.mark.long(
    but=[
        "texts",
        "own-examples",
        "filled",
        "letters",
        "target-as-text",
        "mutual-information",
        "written",
        "filtered",
    ]
)
@pytest.mark.parametrize("name", TASKS)
def test_intact_scores_are_the_harness_own(here_and_harness: HereAndHarness, name: str) -> None:
    scores = assert_same_scores(here_and_harness, here_and_harness.lm, name, intact())
    assert name != "filtered" or any(one.correct for one in scores)


@pytest.fixture(scope="module")
def without_layer(
    here_and_harness: HereAndHarness, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The same model in the harness, with its second layer taken out of its checkpoint."""
    folder = tmp_path_factory.mktemp("cut")
    model = here_and_harness.lm.model
    kept = [layer for number, layer in enumerate(model.model.layers) if number != 1]
    model.config.num_hidden_layers = len(kept)
    state = {
        key.replace("layers.2.", "layers.1."): value
        for key, value in model.state_dict().items()
        if "layers.1." not in key
    }
    model.save_pretrained(folder, state_dict=state)
    model.config.num_hidden_layers = len(kept) + 1
    here_and_harness.lm.tokenizer.save_pretrained(folder)
    return harness_model(folder)


@pytest.mark.parametrize("name", IN_CHAT)
def test_intact_scores_in_a_chat_template_are_the_harness_own(here_and_harness, name, monkeypatch):
    for tokenizer in (original_tokenizer(here_and_harness.model), here_and_harness.lm.tokenizer):
        monkeypatch.setattr(tokenizer, "chat_template", CHAT, raising=False)
    assert_same_scores(here_and_harness, here_and_harness.lm, name, intact(), chat=True)


@pytest.mark.parametrize("name", REMOVED)
def test_scores_without_a_layer_are_those_of_a_checkpoint_without_it(
    here_and_harness, without_layer, name
):
    assert len(without_layer.model.model.layers) == len(here_and_harness.lm.model.model.layers) - 1
    assert_same_scores(here_and_harness, without_layer, name, skip(1))


def assert_same_scores(
    both: HereAndHarness, lm: Any, name: str, change: Intervention, *, chat: bool = False
) -> list[Any]:
    protocol = "generate" if TASKS[name]["output_type"] == "generate_until" else "continuation"
    path = both.folder / f"{name}.yaml"
    task = load_task(f"lm-eval:{path}")
    scores = ours(both.model, task, protocol, change, chat=chat)
    samples = theirs(lm, path, apply_chat_template=chat)
    samples = [one for one in samples if one["filter"] == samples[0]["filter"]]
    if chat:
        for item, sample in zip(task.items, samples, strict=True):
            asked = build_requests(task, item, protocol, both.lm.tokenizer, chat=True)
            written = [(one.context, *([one.continuation] * (not one.answer))) for one in asked]
            assert written == [one[: len(written[0])] for one in sample["arguments"]]
    assert len(scores) == len(samples) == len(ROWS)
    metric = "exact_match" if protocol == "generate" else "acc"
    for found, sample in zip(scores, samples, strict=True):
        assert found.correct == (sample[metric] == 1)
        if "acc_norm" in sample:
            assert found.correct_norm == (sample["acc_norm"] == 1)
        if protocol == "generate":
            assert found.generated == sample["resps"][0][0]
        else:
            logprobs = [one[0] for (one,) in sample["resps"]]
            assert any(found.gold_logprob == pytest.approx(one, abs=1e-3) for one in logprobs)
    return scores


def test_limit_and_examples_are_those_of_the_harness(here_and_harness: HereAndHarness) -> None:
    path = here_and_harness.folder / "texts.yaml"
    task = load_task(f"lm-eval:{path}", limit=3, fewshot=2)
    samples = theirs(here_and_harness.lm, path, limit=3, num_fewshot=2)
    asked = [
        build_requests(task, item, "continuation", here_and_harness.lm.tokenizer)
        for item in task.items
    ]
    assert [[(one.context, one.continuation) for one in each] for each in asked] == [
        [tuple(one) for one in sample["arguments"]] for sample in samples
    ]
    assert asked[0][0].context.count("Question: ") == 3
    other = load_task(f"lm-eval:{path}", fewshot=2, seed=1)
    assert other.items[0].question != task.items[0].question


def test_options_can_be_asked_for_by_letter(here_and_harness: HereAndHarness) -> None:
    task = load_task(f"lm-eval:{here_and_harness.folder / 'texts.yaml'}")
    (asked, *_) = build_requests(task, task.items[4], "letter", here_and_harness.lm.tokenizer)
    assert asked.context == (
        "Question: Which of them flows through Basel?\nA. Rhine\nB. Seine\nAnswer:"
    )
    assert set(task.chance) == {"letter", "continuation", "generate"}
    for without in ("examples", "letters", "next-word"):
        assert "letter" not in load_task(f"lm-eval:{here_and_harness.folder / without}.yaml").chance


def test_options_in_several_prompts_are_asked_by_what_follows_them(
    here_and_harness: HereAndHarness,
) -> None:
    task = load_task(f"lm-eval:{here_and_harness.folder / 'filled.yaml'}")
    assert task.chance == {"continuation": pytest.approx((1 / 4 + 3 / 3 + 1 / 2) / 5)}
    item = task.items[4]
    assert (item.question, item.choices, item.answer, item.ending) == (
        "of them flows through Basel by ", ("Rhine", "Seine"), "Rhine", "past 2 castles."
    )  # fmt: skip
    asked = build_requests(task, item, "continuation", here_and_harness.lm.tokenizer)
    assert [(one.context, one.continuation, one.gold) for one in asked] == [
        ("of them flows through Basel by Rhine", " past 2 castles.", True),
        ("of them flows through Basel by Seine", " past 2 castles.", False),
    ]
    (row,) = question_table(map(text_line, asked)).to_dict("records")
    assert row["prompt"] == item.question
    assert row["options"] == ["Rhine past 2 castles.", "Seine past 2 castles."]
    assert row["gold"] == "Rhine past 2 castles."
    for protocol in ("letter", "generate"):
        with pytest.raises(UserError, match="scores the text behind its options"):
            build_requests(task, item, protocol, here_and_harness.lm.tokenizer)


@pytest.mark.parametrize(
    ("texts", "question", "options"),
    [
        (["We ate fish", "We ate figs"], "We ate ", ("fish", "figs")),
        (["Sarah", "Sam"], "", ("Sarah", "Sam")),
        (["A cap", "A cap and gown"], "A ", ("cap", "cap and gown")),
        (["他说水", "他说火"], "他说", ("水", "火")),
    ],
)
def test_what_options_begin_with_is_the_question(tmp_path, texts, question, options):
    row = json.dumps({**ROWS[0], "filled": texts})
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(row, encoding="utf-8")
    (item,) = load_task(write_task(tmp_path, "begun", FILLED)).items
    assert (item.question, item.choices, item.answer) == (question, options, options[1])


def test_another_question_brings_its_own_examples_and_turns(
    here_and_harness: HereAndHarness,
) -> None:
    task = load_task(f"lm-eval:{here_and_harness.folder / 'filled-examples.yaml'}")
    by_id = {item.id: item for item in task.items}
    for item_id, others in with_other_questions(task, task.items).items():
        assert others
        for other in others:
            source = by_id[other.id.partition(" asked ")[2]]
            assert (other.question, other.turns) == (source.question, source.turns)
            assert other.ending == by_id[item_id].ending


@pytest.mark.parametrize("name", ["examples", "described-examples"])
def test_the_system_prompt_of_a_task_file_is_the_harness_own(here_and_harness, name, monkeypatch):
    monkeypatch.setattr(here_and_harness.lm.tokenizer, "chat_template", CHAT, raising=False)
    path, file = here_and_harness.folder / f"{name}.yaml", here_and_harness.folder / f"{name}.toml"
    file.write_text(f"task = 'lm-eval:{path}'\nsystem = 'Be brief.'", encoding="utf-8")
    task = load_task(str(file))
    samples = theirs(
        here_and_harness.lm, path, apply_chat_template=True, system_instruction="Be brief."
    )
    for item, sample in zip(task.items, samples, strict=True):
        asked = build_requests(task, item, "continuation", here_and_harness.lm.tokenizer, chat=True)
        assert [(one.context, one.continuation) for one in asked] == [
            tuple(one) for one in sample["arguments"]
        ]
    file.write_text(f"task = 'lm-eval:{path}'\nanswer_cue = ' So:'", encoding="utf-8")
    (asked, *_) = build_requests(
        task := load_task(str(file)),
        task.items[0],
        "continuation",
        here_and_harness.lm.tokenizer,
        chat=True,
    )
    assert asked.context.endswith(" So:\n[assistant]\n")


def test_a_filter_is_chosen_by_name(here_and_harness: HereAndHarness) -> None:
    name = f"lm-eval:{here_and_harness.folder / 'several-filters.yaml'}"
    task = load_task(f"{name}:filter=first:capability=reasoning")
    assert (task.name, task.capability) == ("lm-eval:several-filters:filter=first", "reasoning")
    assert task.judge is not None
    assert task.judge(task.items[0], " 7 rhine") == (False, "r")
    judge = load_task(name).judge
    assert judge is not None
    assert judge(task.items[0], "danube") == (True, "danube")
    with pytest.raises(UserError, match="Did you mean 'first'"):
        load_task(f"{name}:filter=frist")


def test_documents_that_cannot_be_asked_are_left_out_and_counted(here_and_harness, tmp_path):
    rows = [*ROWS, {**ROWS[0], "label": 7}, {**ROWS[0], "choices": ["Po", "Po"], "label": 1}]
    for split in ("train", "test"):
        text = "\n".join(map(json.dumps, rows))
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    task = load_task(write_task(tmp_path, "mixed", CHOICE))
    assert len(task.items) == len(ROWS)
    assert task.description.endswith("; 2 documents left out, with equal options or none right")


@pytest.mark.parametrize(
    ("task", "rows", "protocol", "answer"),
    [
        (
            "arc_easy",
            [{"question": "Q?", "choices": {"text": ["x", "y"], "label": ["A", "B"]},
              "answerKey": "B"}],
            "continuation",
            "y",
        ),
        ("gsm8k", [{"question": "Q?", "answer": f"{n} is\n#### 18"} for n in range(7)], "generate",
         "0 is\n#### 18"),
        (
            "hellaswag",  # of which a function of the harness makes its questions
            [{"activity_label": "A", "ctx_a": "b.", "ctx_b": "c", "endings": ["d", "[x] e"],
              "label": "1"}],
            "continuation",
            " e",
        ),
        (
            "winogrande",  # of which each option ends a prompt of its own
            [{"sentence": "Ann met Bea as _ was late.", "option1": "Ann", "option2": "Bea",
              "answer": "2"}],
            "continuation",
            "Bea",
        ),
    ],
)  # fmt: skip
def test_a_task_of_the_harness_on_local_files(
    tmp_path, here_and_harness, task, rows, protocol, answer
):
    for split in ("test", "train", "validation"):
        text = "\n".join(map(json.dumps, rows))
        (tmp_path / f"{split}-0.jsonl").write_text(text, encoding="utf-8")
    name = f"lm-eval:{task}:data={tmp_path}"
    found = load_task(name)
    assert (found.name, found.items[0].answer) == (f"lm-eval:{task}", answer)
    assert protocol in found.chance
    (asked, *_) = build_requests(found, found.items[0], protocol, here_and_harness.lm.tokenizer)
    assert asked.context.endswith(("Question: Q?\nAnswer:", "A: b. C", "as Ann"))
    if task == "gsm8k":
        assert asked.context.count("####") == 5
        assert found.judge is not None
        assert found.judge(found.items[0], "So\n#### 18") == (True, "18")
        assert found.judge(found.items[0], "So\n#### 19")[0] is False
    assert expand_task_names([name]) == [name]


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load_task(name)
    return str(caught.value)


def test_the_example_of_the_page_has_enough_items_whose_options_give_nothing_away(
    tmp_path, monkeypatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how" / "harness_task.md").read_text("utf-8")
    (code,) = re.findall(r"<<'END' > science/test.jsonl\n(.*?)END\n", page, re.DOTALL)
    (tmp_path / "science").mkdir()
    monkeypatch.chdir(tmp_path)
    with open("science/test.jsonl", "w") as file, redirect_stdout(file):
        exec(code, {})
    items = load_task("lm-eval:arc_easy:data=science").items
    assert len(items) == 18
    for item in items:  # each option is right once, so that none of them is a better guess
        right = [one.answer for one in items if one.choices == item.choices]
        assert sorted(right) == sorted(item.choices)
    needed = items_for_signal(0.8, 1 / 3, [1 / 3, 1 / 3], 1)
    assert needed is not None
    assert needed <= len(items)


@pytest.mark.slow
def test_a_mistyped_name() -> None:
    assert refusal("lm-eval:arc_esy") == (
        "Unknown task 'arc_esy' of lm-evaluation-harness. Did you mean 'arc_easy'? Expected a name "
        "that `lm_eval ls tasks` lists, or the path of a .yaml file."
    )


def test_tasks_that_are_not_there() -> None:
    assert refusal("lm-eval:nowhere.yaml") == (
        "File 'nowhere.yaml' is not there; expected the YAML file of a task."
    )
    assert refusal("lm-eval:arc_easy").startswith(
        "The data of task 'lm-eval:arc_easy' is not on this machine and cannot be fetched ("
    )
    assert refusal("lm-eval:arc_easy:data=docs") == (
        "'docs' has no file of the split 'test' that task 'lm-eval:arc_easy:data=docs' asks; "
        "expected test.jsonl, .json, .csv or .parquet there, and the same for examples."
    )
    assert "expected one of retrieval" in refusal("lm-eval:arc_easy:capability=maths")


@pytest.mark.parametrize(
    ("config", "suffix", "part"),
    [
        ({}, "process_docs: !function code.run\n", "names a !function"),
        ({"unsafe_code": True}, "", "unsafe_code"),
        ({"metric_list": [{"metric": "some/metric", "hf_evaluate": True}]}, "", "from the hub"),
        ({"metric_list": [{"metric": "./code.py"}]}, "", "from the hub"),
        ({"dataset_path": "webdataset"}, "", "is read by 'webdataset'"),
    ],
)
def test_code_runs_only_if_it_is_trusted(here_and_harness, tmp_path, config, suffix, part):
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    name = write_task(tmp_path, "coded", {**CHOICE, **config}, suffix=suffix)
    sentence = refusal(name)
    assert sentence.startswith(f"Task {name!r} runs code: ")
    assert part in sentence
    assert sentence.endswith(f"write {name}:trust=yes.")


def test_trusted_code_runs(here_and_harness: HereAndHarness) -> None:
    (here_and_harness.folder / "code.py").write_text(
        "def run(docs): return docs.select([1])", encoding="utf-8"
    )
    name = write_task(
        here_and_harness.folder, "coded", CHOICE, suffix="process_docs: !function code.run\n"
    )
    (item,) = load_task(f"{name}:trust=yes").items
    assert item.answer == "the Seine"


def test_a_judge_goes_to_other_processes_by_the_name_of_its_task(
    here_and_harness: HereAndHarness,
) -> None:
    (here_and_harness.folder / "second.py").write_text(
        "def run(docs): return docs.select([1])", "utf-8"
    )
    suffix = "process_docs: !function second.run\n"
    name = write_task(here_and_harness.folder, "sent", WRITTEN, suffix=suffix)
    task = load_task(f"{name}:trust=yes")
    sent = pickle.loads(pickle.dumps(task))
    assert sent == task
    (item,) = task.items
    for text in (" the seine", " rhine"):
        assert sent.judge(item, text) == task.judge(item, text)
    assert task.judge is not None
    with pytest.raises(UserError, match="'sent' of lm-evaluation-harness cannot go to other"):
        pickle.dumps(replace(task.judge, loaded_by=None))


def test_code_that_needs_another_package(here_and_harness: HereAndHarness) -> None:
    (here_and_harness.folder / "lacking.py").write_text("import no_such_package", encoding="utf-8")
    suffix = "process_docs: !function lacking.run\n"
    name = write_task(here_and_harness.folder, "lacking", CHOICE, suffix=suffix)
    assert "package that is not installed (No module named 'no_such_pack" in refusal(
        f"{name}:trust=yes"
    )


def test_templates_cannot_reach_python(here_and_harness: HereAndHarness) -> None:
    config = {**CHOICE, "doc_to_text": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}
    assert "SecurityError" in refusal(write_task(here_and_harness.folder, "reaching", config))


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "bits_per_byte"}]},
         "measures the perplexity of texts, and no item of it is right or wrong; expected a task "
         "with an accuracy; run it in the harness with layerwise.lm_eval.LM."),
        ({**FILLED, "gen_prefix": "The"}, "has a gen_prefix behind options in several prompts"),
        ({"metric_list": [{"metric": "brier_score"}]}, "is scored by brier_score of its own"),
        ({"doc_to_target": "{{[0, 1]}}"}, "has several answers"),
        ({**WRITTEN, "metric_list": [{"metric": "bleu"}]}, "no metric that says right or wrong"),
        ({**WRITTEN, "generation_kwargs": {"do_sample": True}}, "draws texts at random"),
        ({"doc_to_text": "{{nothing}}"}, "cannot be made (UndefinedError"),
        ({"num_fewshot": 9, "fewshot_split": "train"}, "as many few-shot examples as the 9"),
    ],
)  # fmt: skip
def test_tasks_without_right_and_wrong(
    here_and_harness: HereAndHarness, config: dict[str, Any], part: str
) -> None:
    assert part in refusal(write_task(here_and_harness.folder, "odd", {**CHOICE, **config}))


def test_a_group_stands_for_its_tasks(here_and_harness: HereAndHarness) -> None:
    path = here_and_harness.folder / "group.yaml"
    path.write_text(yaml.safe_dump({"group": "all", "task": ["texts", "letters"]}))
    both_names = [f"lm-eval:{here_and_harness.folder / one}.yaml" for one in ("texts", "letters")]
    assert expand_task_names([f"lm-eval:{path}"]) == both_names
    assert "is a group; expected one task" in refusal(f"lm-eval:{path}")
    path.write_text(yaml.safe_dump({"group": "all", "task": ["texts", "nowhere"]}))
    with pytest.raises(UserError) as caught:
        expand_task_names([f"lm-eval:{path}"])
    assert str(caught.value).startswith(
        f"Group 'lm-eval:{path}' has a broken member: Unknown task "
    )
    (here_and_harness.folder / "broken.yaml").write_text("task: [", encoding="utf-8")
    path.write_text(yaml.safe_dump({"group": "all", "task": ["texts", "broken"]}))
    with pytest.raises(UserError, match=r"has a broken member: The file of task .* cannot be read"):
        expand_task_names([f"lm-eval:{path}"])
    path.write_text(yaml.safe_dump({"group": "all", "task": [{"task": "texts", "repeats": 2}]}))
    with pytest.raises(UserError, match="changes its task 'texts'"):
        expand_task_names([f"lm-eval:{path}"])


@pytest.mark.long
@pytest.mark.slow
def test_a_group_of_the_harness() -> None:
    names = expand_task_names(["lm-eval:mmlu"])
    assert len(names) == 57
    assert "lm-eval:mmlu_anatomy" in names
    with pytest.raises(UserError, match="each of its tasks has data of its own"):
        expand_task_names(["lm-eval:mmlu:data=docs"])


def test_a_named_task_does_not_list_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(*_: Any) -> None:
        raise AssertionError("all tasks were listed")

    monkeypatch.setattr(finding, "task_manager", listed)
    assert expand_task_names(["lm-eval:mmlu_anatomy"]) == ["lm-eval:mmlu_anatomy"]


def test_without_a_file_of_examples_no_item_shows_its_own_answer(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}?", "answer": f"is\n#### {n}"} for n in range(6)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = load_task(f"lm-eval:gsm8k:data={tmp_path}")
    for number, item in enumerate(task.items):
        assert item.question.count("####") == 5
        assert item.question.count(f"Q{number}?") == 1


def test_chance_without_distractors_is_that_of_the_commonest_answer(
    here_and_harness: HereAndHarness,
) -> None:
    task = load_task(f"lm-eval:{here_and_harness.folder / 'next-word.yaml'}")
    assert task.chance == {"continuation": 0.2, "generate": 0.2}


@pytest.mark.long
@pytest.mark.smollm2
@pytest.mark.parametrize("name", ["examples", "next-word", "filtered", "several-filters"])
def test_scores_of_a_real_model_are_the_harness_own(
    here_and_harness: HereAndHarness, real: HereAndHarness, name: str
) -> None:
    assert_same_scores(real, real.lm, name, intact())


@pytest.fixture(scope="module")
def real(here_and_harness: HereAndHarness) -> HereAndHarness:
    return HereAndHarness(
        here_and_harness.folder, smollm2(), harness_model(find_source("smollm2-135m").folder)
    )


def test_a_task_object_of_the_harness(here_and_harness: HereAndHarness) -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    loaded = manager.load(str(here_and_harness.folder / "texts.yaml"))["tasks"]["texts"]
    assert len(from_lm_eval(loaded, fewshot=0).items) == len(from_lm_eval(loaded, fewshot=2).items)
    assert (
        from_lm_eval(loaded).items
        == load_task(f"lm-eval:{here_and_harness.folder / 'texts.yaml'}").items
    )


@pytest.mark.parametrize(
    "name", ["examples", "filtered", *in_long_runs(("texts",), ("next-word",))]
)
@pytest.mark.parametrize("cut", [False, True])
def test_the_harness_runs_a_model_of_ours_intact_and_without_a_layer(
    here_and_harness: HereAndHarness, without_layer: Any, name: str, cut: bool
) -> None:
    path = here_and_harness.folder / f"{name}.yaml"
    mine = theirs(LM(here_and_harness.model, skip(1) if cut else None), path)
    expected = theirs(without_layer if cut else here_and_harness.lm, path)
    for one, other in zip(mine, expected, strict=True):
        for metric in one["metrics"]:
            assert one[metric] == pytest.approx(other[metric], abs=1e-3)
        assert one["arguments"] == other["arguments"]


def test_whole_texts_are_scored_in_windows_as_the_harness_does(
    here_and_harness: HereAndHarness,
) -> None:
    from lm_eval.api.instance import Instance

    texts = ["Which river flows through Vienna?", "The Danube. " * 90]
    asked = [
        Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)
    ]
    mine = LM(here_and_harness.model).loglikelihood_rolling(asked)
    assert mine == pytest.approx(here_and_harness.lm.loglikelihood_rolling(asked), abs=1e-2)


@pytest.mark.parametrize("cut", [False, True])
def test_perplexity_with_a_layer_removed_is_that_of_a_checkpoint_without_it(
    here_and_harness: HereAndHarness, without_layer: Any, cut: bool
) -> None:
    config = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "question",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    }
    path = Path(write_task(here_and_harness.folder, "rolling", config).removeprefix("lm-eval:"))
    mine = theirs(LM(here_and_harness.model, skip(1) if cut else None), path)
    expected = theirs(without_layer if cut else here_and_harness.lm, path)
    assert [one["bits_per_byte"] for one in mine] == [
        pytest.approx(one["bits_per_byte"], abs=1e-3) for one in expected
    ]


def test_what_the_harness_cannot_ask_is_refused() -> None:
    with pytest.raises(UserError, match="expected a decoder"):
        LM(load_model("organism-seq2seq"))


@pytest.mark.long
def test_a_pruned_folder_goes_through_the_harness_as_it_is(
    here_and_harness: HereAndHarness, tmp_path: Path
) -> None:
    path = here_and_harness.folder / "texts.yaml"
    out = tmp_path / "cut"
    layerwise.prune_model(
        here_and_harness.model, [1], out, tasks=f"lm-eval:{path}", protocols="continuation"
    )
    written, changed = (
        theirs(lm, path) for lm in (harness_model(out), LM(here_and_harness.model, skip(1)))
    )
    for one, other in zip(written, changed, strict=True):
        assert [each[0][0] for each in one["resps"]] == pytest.approx(
            [each[0][0] for each in other["resps"]], abs=1e-3
        )
