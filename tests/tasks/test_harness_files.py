"""Hostile task files of lm-evaluation-harness: no code runs, none hangs, each gets a sentence."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerwise.errors import UserError
from layerwise.ground import limited
from layerwise.tasks import expand_task_names, load_task
from layerwise.tasks.harness import bounded, refuse_unknown
from tests.cases import LONG, in_long_runs
from tests.hostile.documents import CALLS, TASK
from tests.hostile.limits import is_sentence

ROWS = [{"question": f"Q{n}?", "choices": ["x", "y"], "label": n % 2} for n in range(4)]
FIELDS: dict[str, Any] = {
    "task": "mine",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}],
}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{choices[0]}}",
    "metric_list": [{"metric": "exact_match"}],
}


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import datasets.config
    import huggingface_hub.constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    """End a test that waits or reads for ever."""

    def over(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(90)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


def config_fields(rows: Path, **changes: Any) -> dict[str, Any]:
    return {**FIELDS, "dataset_kwargs": {"data_files": {"test": str(rows)}}, **changes}


def write(folder: Path, config: Any, name: str = "mine.yaml") -> str:
    path = folder / name
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return f"lm-eval:{path}"


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        refuse_unknown(name)
    assert is_sentence(str(caught.value))
    return str(caught.value)


def load_refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        load_task(name)
    assert is_sentence(str(caught.value))
    return str(caught.value)


def with_code(folder: Path) -> Path:
    """Put a module that leaves a mark beside a task."""
    mark = folder / "ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef run(*_): return 'Q'\n"
    (folder / "code.py").write_text(code, encoding="utf-8")
    return mark


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("way", CALLS)
def test_no_way_to_name_a_function_runs_it(tmp_path, way, encoding):
    mark = with_code(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(CALLS[way].encode(encoding))
    name = f"lm-eval:{tmp_path / 'mine.yaml'}"
    for sentence in (refusal(name), load_refusal(name)):
        assert sentence.startswith(f"Task {name!r} runs code: mine.yaml names a !function; ")
    assert not mark.exists()


def test_the_ways_to_name_a_function_are_those_of_the_harness(tmp_path):
    from lm_eval.tasks._yaml_loader import load_yaml

    mark = with_code(tmp_path)
    for number, text in enumerate(CALLS.values()):
        (tmp_path / f"{number}.yaml").write_bytes(text.encode())
        os.utime(tmp_path / "code.py", (number, number))  # else it is taken from memory
        mark.unlink(missing_ok=True)
        load_yaml(tmp_path / f"{number}.yaml")
        assert mark.exists(), text


@pytest.mark.parametrize(
    "text",
    [
        "doc_to_text: !!python/object/apply:code.run []",
        "doc_to_text: !!python/name:code.run",
        "doc_to_text: !<tag:yaml.org,2002:python/module:code>",
        "doc_to_text: !unknown x",
        "doc_to_text: !function [code.run]",
    ],
)
def test_no_other_tag_makes_an_object(tmp_path, text):
    mark = with_code(tmp_path)
    name = write(tmp_path, TASK + text)
    for given in (name, f"{name}:trust=yes"):
        assert "cannot be read (ConstructorError" in refusal(given)
    assert not mark.exists()


def test_what_a_link_includes_lies_beside_its_target(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    mark = with_code(there)
    write(here, "description: harmless", "inner.yaml")
    write(there, "doc_to_text: !function code.run", "inner.yaml")
    write(there, TASK + "include: inner.yaml")
    (here / "mine.yaml").symlink_to(there / "mine.yaml")
    name = f"lm-eval:{here / 'mine.yaml'}"
    assert "inner.yaml names a !function" in refusal(name)
    assert "inner.yaml names a !function" in load_refusal(name)
    assert not mark.exists()


def test_a_file_that_changes_after_it_was_judged_runs_nothing(tmp_path, rows, monkeypatch):
    from layerwise.tasks.harness import trust

    mark = with_code(tmp_path)
    name = write(tmp_path, config_fields(rows))
    judged = trust.check_fields

    def change_then(*arguments: Any) -> None:
        judged(*arguments)
        write(tmp_path, CALLS["plainly"])

    monkeypatch.setattr(trust, "check_fields", change_then)
    assert len(load_task(name).items) == len(ROWS)
    assert "names a !function" in load_refusal(name)
    assert not mark.exists()


def test_functions_of_the_harness_may_be_included(tmp_path, rows):
    from layerwise.tasks.harness.finding import own_folder

    own = own_folder() / "hellaswag" / "hellaswag.yaml"
    name = write(tmp_path, {"include": str(own), "task": "mine"})
    refuse_unknown(name)
    data = [{"activity_label": "A", "ctx_a": "b.", "ctx_b": "c", "endings": ["d", "[x] e"],
             "label": "1"}]  # fmt: skip
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, data)), "utf-8")
    (item,) = load_task(f"{name}:data={tmp_path}").items
    assert (item.question, item.answer) == ("A: b. C", " e")


@pytest.mark.parametrize(
    "denied", ["", "unsafe_code: false\n", "include: [unsafe.yaml, safe.yaml]\n"]
)
def test_what_runs_the_models_code_cannot_be_denied_by_another_file(tmp_path, denied):
    write(tmp_path, "unsafe_code: true", "unsafe.yaml")
    write(tmp_path, "unsafe_code: false", "safe.yaml")
    own = "" if "include" in denied else "include: unsafe.yaml\n"
    assert "runs what the model writes" in refusal(write(tmp_path, TASK + own + denied))


def test_a_group_cannot_trust_its_members(tmp_path):
    mark = with_code(tmp_path)
    write(tmp_path, CALLS["plainly"])
    beside = "mine.yaml:trust=yes:data=x"
    write(tmp_path, CALLS["plainly"], f"{beside}.yaml")
    group = write(tmp_path, {"group": "all", "task": [beside]}, "group.yaml")
    with pytest.raises(UserError, match="expected names without a colon"):
        expand_task_names([group])
    assert not mark.exists()


@pytest.mark.parametrize("start", ["", "./", ".//"])
def test_a_task_file_of_ours_cannot_trust_its_task(tmp_path, start, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mark = with_code(tmp_path)
    write(tmp_path, CALLS["plainly"])
    name = "lm-eval:mine.yaml:trust=yes"
    (tmp_path / name).touch()  # a path to it becomes the name
    (tmp_path / "own.toml").write_text(f'task = "{start}{name}"', encoding="utf-8")
    assert load_refusal("own.toml") == (
        "File 'own.toml': 'task' says trust=yes, which only your command can; leave it out there, "
        "and ask for the task itself to run its code."
    )
    assert not mark.exists()


def test_groups_that_name_one_another_end(tmp_path):
    write(tmp_path, TASK + "output_type: multiple_choice")
    for number in range(30):  # each names the next twice: a billion paths
        members = [f"g{number + 1}", f"g{number + 1}", "g0"] if number < 29 else ["mine"]
        write(tmp_path, {"group": f"g{number}", "task": members}, f"g{number}.yaml")
    assert expand_task_names([f"lm-eval:{tmp_path}/g0.yaml"]) == [f"lm-eval:{tmp_path}/mine.yaml"]
    name = write(tmp_path, {"group": "own", "task": ["own"]}, "own.yaml")
    assert "has no task" in refusal(name)
    name = write(tmp_path, {"group": "own", "task": [3]}, "own.yaml")
    assert "has the member 3; expected the name of a task" in refusal(name)


def test_groups_within_groups_too_deeply_are_refused(tmp_path):
    for number in range(500):
        write(tmp_path, f"group: a\ntask: [h{number + 1}]", f"h{number}.yaml")
    assert is_sentence(refusal(f"lm-eval:{tmp_path}/h0.yaml"))


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_folder(path: Path) -> None:
    path.mkdir()


def put_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.parametrize("trust", ["", ":trust=yes"])
@pytest.mark.parametrize("put", [put_pipe, put_device, put_folder, put_large])
def test_a_pipe_a_device_or_a_huge_file_is_never_read(tmp_path, put, trust):
    put(tmp_path / "odd.yaml")
    assert "cannot be read (" in refusal(f"lm-eval:{tmp_path}/odd.yaml{trust}")
    name = write(tmp_path, TASK + "include: [odd.yaml]")
    assert "cannot be read (" in refusal(f"{name}{trust}")
    group = write(tmp_path, "group: all\ntask: [odd]", "group.yaml")
    assert "cannot be read (" in refusal(f"{group}{trust}")


def laughs(levels: int, form: str) -> str:
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n + 1}: &a{n + 1} " + form.format(n=n) for n in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (laughs(60, "[*a{n}, *a{n}]"), "stand for too much"),
        ("m0: &m0 {a: 1}\n" + "\n".join(f"m{n + 1}: &m{n + 1} {{<<: [*m{n}, *m{n}]}}"
                                        for n in range(60)), "stand for too much"),
        ("metadata: &a [*a]", "stands for nothing before it"),
        ("metadata: " + "[" * 60 + "]" * 60, "nested more than 50 levels deep"),
        ("metadata: " + "[" * 100_000, "cannot be read"),
        ("- " * 5000 + "x", "cannot be read"),
        ("repeats: " + "9" * 400, "more than 100 digits"),
        ("repeats: 1" + ":1" * 200_000, "more than 100 digits"),
        ("temperature: 1" + ":1" * 200_000 + ".5", "more than 100 digits"),
        ("include: mine.yaml", "included twice"),
        ("include: {a: b}", "which is no path"),
        ("include: [5]", "which is no path"),
        ("include: nowhere.yaml", "No such file"),
        ("5: x", "no fields with names"),
        ("[a, b]", "no fields with names"),
        ("", "no fields with names"),
        ("a: [", "ParserError"),
        ("a: \x07", "ReaderError"),
        ('task: "\\0"', "null or half a character"),
    ],
)  # fmt: skip
def test_yaml_that_costs_or_says_nothing_is_refused(tmp_path, text, part):
    start = time.process_time()
    assert part in refusal(write(tmp_path, text))
    assert time.process_time() - start < 10


VALUES = [
    None, True, 3, -1, 10**30, 0.5, float("nan"), "x", "", "a\0b", [], {}, [3], [[]], [None],
    ["x"], {"a": 1}, {3: 3}, {"until": 5}, "{{ question", "{{ nothing }}", "{{ 10 ** 9 }}",
    "[" * 300, "{{ '\\ud800' }}", {"function": "regex"}, [{"function": "regex"}],
]  # fmt: skip


def refusal_sentence(name: str) -> str | None:
    """Sentence of a task's refusal; None if it is loaded and judges a text."""
    try:
        task = load_task(name)
        if task.judge is not None:
            task.judge(task.items[0], "x")
    except UserError as error:
        return str(error)
    return None


FIELD_NAMES = [
    "task", "dataset_path", "dataset_name", "dataset_kwargs", "training_split", "test_split",
    "fewshot_split", "doc_to_text", "doc_to_target", "doc_to_choice", "process_results",
    "description", "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot",
    "metric_list", "output_type", "generation_kwargs", "repeats", "filter_list", "gen_prefix",
    "metadata", "tag", "process_docs", "custom_dataset", "use_prompt", "class", "unsafe_code",
    "doc_to_image", "include", "group", "task_list", "another",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELD_NAMES)
def test_fields_of_any_type_are_read_or_refused(tmp_path, rows, field, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where data without files are looked for
    values = VALUES if LONG else random.Random(field).sample(VALUES, 3)
    for value in values:
        for kind in ({}, WRITTEN):
            sentence = refusal_sentence(
                write(tmp_path, config_fields(rows, **{**kind, field: value}))
            )
            assert sentence is None or is_sentence(sentence)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"dataset_path": 3}, "Field 'dataset_path' of task {} is 3; expected a text; correct"),
        ({"metric_list": 5}, "Field 'metric_list' of task {} is 5; expected a list; correct"),
        ({"metric_list": [5]}, "is 5; expected a list of mappings with metric; correct"),
        ({"filter_list": "x"}, "Field 'filter_list' of task {} is 'x'; expected a list; correct"),
        ({"num_fewshot": 10**9}, "expected a whole number from 0 to 1,000; correct"),
        ({"repeats": 10**9}, "expected a whole number from 1 to 1,000; correct"),
        ({"doc_to_text": True}, "is True; expected a text or a function or a whole number"),
        ({"generation_kwargs": {"until": [5]}}, "'generation_kwargs.until' of task {} is 5"),
        ({"generation_kwargs": {"max_gen_toks": 10**9}}, "from 1 to 1,000,000; correct"),
        ({"dataset_kwargs": {"cache_dir": "x"}}, "set cache_dir, which can write files"),
        ({"dataset_kwargs": {"num_proc": 999}}, "set num_proc, which can write files"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, rows, changes, part):
    name = write(tmp_path, config_fields(rows, **changes))
    assert part.format(repr(name)) in refusal(name)


def test_options_by_letter_are_a_mapping(tmp_path, rows):
    name = write(tmp_path, config_fields(rows, doc_to_choice={"A": "one", "B": "two"}))
    assert load_task(name).items[1].choices == ("one", "two")


@pytest.mark.parametrize("text", ["a\0b", "a\ud800"])
def test_data_with_broken_texts_are_refused(tmp_path, text):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({**ROWS[0], "question": text}), encoding="utf-8")
    for asked in ("question", "{{question}}"):
        assert is_sentence(load_refusal(write(tmp_path, config_fields(path, doc_to_text=asked))))


@pytest.mark.parametrize("data", ["/proc", "/proc/self/mem", "/dev/zero", "a\0b", "x" * 5000])
def test_no_folder_of_data_gets_a_sentence(tmp_path, rows, data):
    assert is_sentence(load_refusal(f"{write(tmp_path, config_fields(rows))}:data={data}"))


@pytest.mark.parametrize("put", [put_pipe, put_device])
def test_data_that_are_a_pipe_or_a_device_are_never_read(tmp_path, put):
    put(tmp_path / "test.jsonl")
    name = write(tmp_path, config_fields(tmp_path / "test.jsonl"))
    assert "cannot be made (FileNotFoundError" in load_refusal(name)
    assert "cannot be made (FileNotFoundError" in load_refusal(f"{name}:data={tmp_path}")


@pytest.fixture
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is tried in a limited process have little time and memory."""
    monkeypatch.setattr(limited, "SECONDS", 0.5)
    monkeypatch.setattr(limited, "MEMORY", 2**29)


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.usefixtures("_little")
@pytest.mark.parametrize(
    ("field", "template", "part"),
    [
        ("doc_to_text", LOOP, "needs more than 0.5 seconds"),
        *in_long_runs(
            ("gen_prefix", LOOP, "needs more than 0.5 seconds"),
            ("doc_to_text", "{{ ('a' * 40) | regex_replace('(a+)+b', '') }}", "more than 0.5"),
            ("doc_to_target", LOOP, "needs more than 0.5 seconds"),
            ("doc_to_choice", LOOP, "needs more than 0.5 seconds"),
            ("description", LOOP, "needs more than 0.5 seconds"),
        ),
        ("doc_to_text", "{% if question == 'Q3?' %}" + LOOP + "{% endif %}", "for 4 documents"),
        ("doc_to_text", "{{ 'x' * 10 ** 10 }}", "needs more than 0.5 GiB of memory"),
        ("doc_to_text", "{{ 'x' * 300000 }}", "makes 300,000 characters"),
    ],
)
def test_templates_that_loop_or_grow_are_refused(tmp_path, rows, field, template, part):
    assert part in load_refusal(write(tmp_path, config_fields(rows, **{field: template})))


def test_all_documents_are_rendered_in_a_few_requests(tmp_path, monkeypatch):
    path = tmp_path / "test.jsonl"
    many = [{**ROWS[0], "question": f"Q{n}?"} for n in range(1500)]
    path.write_text("\n".join(map(json.dumps, many)), encoding="utf-8")
    asked, ask = [], limited.LimitedProcess.ask

    def counted(self: Any, *arguments: Any) -> Any:
        asked.append(arguments)
        return ask(self, *arguments)

    monkeypatch.setattr(limited.LimitedProcess, "ask", counted)
    name = write(
        tmp_path, config_fields(path, doc_to_choice="{{choices}}", doc_to_target="{{label}}")
    )
    task = load_task(name)
    assert [item.question for item in task.items] == [one["question"] for one in many]
    assert len(asked) <= 6


REGEX = {"function": "regex", "regex_pattern": "(a|a)+$"}
CHOICES = {"function": "multi_choice_regex", "regexes_to_ignore": ["(a|a)+$"]}
METRIC = {"metric": "exact_match", "regexes_to_ignore": ["(a|a)+$"]}


@pytest.mark.usefixtures("_little")
@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({"filter_list": [{"name": "x", "filter": [REGEX, {"function": "take_first"}]}]}, 0.5),
        ({"metric_list": [METRIC]}, 0.5),
        # The harness looks at each character that there is before this filter begins.
        *in_long_runs(
            ({"filter_list": [{"name": "x", "filter": [CHOICES, {"function": "take_first"}]}]}, 4)
        ),
    ],
)
def test_patterns_that_backtrack_over_an_answer_are_refused(
    tmp_path, rows, changes, seconds, monkeypatch
):
    monkeypatch.setattr(limited, "SECONDS", seconds)
    task = load_task(write(tmp_path, config_fields(rows, **WRITTEN | changes)))
    assert task.judge is not None
    correct, _ = task.judge(task.items[0], "b")
    with pytest.raises(UserError, match=rf"needs more than {seconds} seconds") as caught:
        task.judge(task.items[0], "a" * 40 + "!")
    assert is_sentence(str(caught.value))
    assert task.judge(task.items[0], "b")[0] is correct


def test_a_filter_that_fails_on_an_answer_is_told(tmp_path, rows):
    steps = [{"function": "regex", "regex_pattern": "b", "group_select": 1}]
    pipeline = {"name": "x", "filter": [*steps, {"function": "take_first"}]}
    task = load_task(write(tmp_path, config_fields(rows, **WRITTEN, filter_list=[pipeline])))
    assert task.judge is not None
    with pytest.raises(UserError, match="cannot judge a text \\(IndexError: list index"):
        task.judge(task.items[0], "b")


def test_filters_with_keys_that_are_no_texts_are_refused(tmp_path, rows):
    steps = [{"function": "regex"}, {"function": "map", "mapping_dict": {1: "x"}}]
    pipeline = {"name": "x", "filter": [*steps, {"function": "take_first"}]}
    name = write(tmp_path, config_fields(rows, **WRITTEN, filter_list=[pipeline]))
    assert "has keys that are no texts" in load_refusal(name)


def test_templates_are_rendered_as_the_harness_does():
    from jinja2.defaults import DEFAULT_FILTERS
    from lm_eval import utils

    assert utils.env.filters.keys() - DEFAULT_FILTERS.keys() == {"regex_replace"}
    render = bounded.Templates("mine")
    document = {"a": "x\ny", "b": [1, 2.5, None, True], "c": {"d": "é"}}
    for template in (
        "{{a}}\r\n", "{{b}} {{c.d}}\n", "{{c}}", "{{a | regex_replace('x', 'z', 1)}}",
        "{% for one in b %}{{loop.index}}{{one}}{% endfor %}", "{{b[0] if a else b.x}}",
    ):  # fmt: skip
        assert render(template, document) == utils.apply_template(template, document)
