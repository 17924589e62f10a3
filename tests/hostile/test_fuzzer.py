"""Made-up files of every kind that is read: a sentence, or a right answer, in time and memory."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from layerwise.analyses.comparison.harness_logs import compare_logs
from layerwise.analyses.verifying import verify
from layerwise.errors import UserError
from layerwise.ground import limited as tried_apart
from layerwise.models.huggingface.originals import read_tokenizer
from layerwise.results import load
from layerwise.storage.file_list import with_list
from layerwise.tasks import load_task
from layerwise.tasks._encoding import as_chat, encode
from layerwise.tasks.extractors import extractor
from layerwise.tasks.harness import finding
from layerwise.tasks.items import bad_choices
from tests import synthetic
from tests.forking import exit_code, fork_work
from tests.hostile.documents import (
    PATTERNS,
    REPLACEMENTS,
    SCALARS,
    TEMPLATES,
    TEXTS,
    MutatedBytes,
    changed_documents,
    deep,
    document_files,
    mutated_bytes,
    replace_step,
    task_files,
)
from tests.hostile.extent import fuzz
from tests.hostile.flipped_files import SMALL, cache_folder, finish_small_run, read_lens, read_model
from tests.hostile.limits import is_sentence, within_limits
from tests.models.seq2seq.tiny import tiny_folder as tiny_seq2seq_folder
from tests.models.test_gguf import write_gguf
from tests.models.tiny import tiny_folder
from tests.tasks.test_benchmarks import ROWS

OF_MODELS, OF_OTHERS = 16, 7
SIZES = [0, 1, 5, 1000, 10**5, 10**6, 10**9, 2**31, 2**63 - 1, 2**64, -1]


def outcome(read: Callable[[], Any]) -> Any:
    """Outcome of reading; None if it was refused in a sentence, within the limits."""
    try:
        with within_limits():
            return read()
    except UserError as error:
        refusal = str(error)
    assert is_sentence(refusal), refusal
    return None


def same_twice(path: Path) -> None:
    """A model is refused, or it is the same one at each load: its weights are not drawn."""
    readings = []
    for start in (1, 2):
        torch.manual_seed(start)
        with tempfile.TemporaryDirectory() as cache:
            found = outcome(lambda cache=cache: read_model(path, Path(cache)))
        if found is None:
            return
        readings.append(found)
    assert readings[0] == readings[1], "its weights are others at each load"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models"), "llama", **SMALL)


@pytest.fixture
def copied_model(folder: Path, tmp_path: Path) -> Path:
    """The model in a folder that may be changed."""
    return shutil.copytree(folder, tmp_path / "model")


@pytest.fixture
def little(monkeypatch) -> None:
    """Let what is tried in a limited process have little time and memory."""
    monkeypatch.setattr(tried_apart, "SECONDS", 0.5)
    monkeypatch.setattr(tried_apart, "MEMORY", 2**29)


ROW = {
    "question": "Where?", "answer": "Rome", "choices": ["Rome", "Oslo"], "context": "It is here.",
    "capability": "knowledge", "id": "one",
}  # fmt: skip
LINES = st.one_of(
    changed_documents(ROW).map(json.dumps),
    changed_documents(ROW).map(lambda row: json.dumps(row, ensure_ascii=False)),
    deep(),
    st.integers(4000, 6000).map(lambda n: '{"question": ' + "9" * n + "}"),
    TEXTS,
)


def test_any_file_of_questions_is_read_or_refused():
    @fuzz(
        OF_OTHERS,
        lines=st.lists(LINES, max_size=4),
        end=st.sampled_from(["\n", "\r\n", "\u2028", "\r"]),
    )
    def tried(lines: list[str], end: str):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "mine.jsonl"
            path.write_bytes(end.join(lines).encode("utf-8", "surrogatepass"))
            task = outcome(lambda: load_task(str(path), fewshot=0))
            if task is not None:
                rows = [
                    json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()
                ]
                assert [item.question for item in task.items] == [
                    r["question"].strip() for r in rows
                ]


BENCHMARK_ROWS = st.sampled_from(list(ROWS)).flatmap(
    lambda case: st.tuples(st.just(case.split(",")[0]), document_files(ROWS[case]))
)


def test_any_rows_of_a_benchmark_are_read_or_refused(tmp_path: Path):
    path = tmp_path / "rows.json"

    @fuzz(OF_OTHERS, made=BENCHMARK_ROWS)
    def tried(made: tuple[str, bytes]):
        name, content = made
        path.write_bytes(content)
        task = outcome(lambda: load_task(f"benchmark:{name}:data={path}", fewshot=0))
        assert task is None or not any(map(bad_choices, task.items))


CELLS = st.one_of(TEXTS, st.sampled_from(["", "1", "B", "9" * 500, "q" * 140_000, '"', "nan"]))


def test_any_cells_of_a_table_are_read_or_refused(tmp_path: Path):
    names = [("mmlu.csv", "benchmark:mmlu:data={}"), ("test.csv", "hf:x:data={}"), ("a.csv", "{}")]

    @fuzz(OF_OTHERS, kind=st.sampled_from(names), rows=st.lists(st.lists(CELLS, max_size=7)))
    def tried(kind: tuple[str, str], rows: list[list[str]]):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / kind[0]
            lines = ["question,answer,choices", *map(",".join, rows)]
            path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
            at = place if kind[0] == "test.csv" else path
            outcome(lambda: load_task(kind[1].format(at), fewshot=0))


MAPPED = {"question": "Which?", "answer": 2, "context": "c", "choices": [1, 2.5, "x", "y"]}
LABELLED = {"question": "?", "answer": "B", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}


def known(value: Any) -> str:
    """A document as JSON, without fields that are None."""
    whole = json.loads(json.dumps(value), object_hook=lambda fields: {
        name: one for name, one in fields.items() if one is not None
    })  # fmt: skip
    return json.dumps(whole, sort_keys=True)


def test_any_rows_of_a_data_set_are_read_alike_from_lines_and_parquet(tmp_path: Path):
    name = f"hf:x:choices=choices:data={tmp_path}"

    @fuzz(OF_OTHERS, rows=st.lists(st.sampled_from([MAPPED, LABELLED]).flatmap(changed_documents)))
    def tried(rows: list[dict[str, Any]]):
        tasks = []
        for kind in ("jsonl", "parquet"):
            path = tmp_path / f"test.{kind}"
            if kind == "jsonl":
                path.write_text("\n".join(map(json.dumps, rows)))
            else:
                try:
                    table = pa.Table.from_pylist(rows)
                    if known(table.to_pylist()) != known(rows):
                        return  # in a column of floats, 1 and False are 1.0 and 0.0
                    pq.write_table(table, path)
                except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
                    return
            tasks.append(outcome(lambda: load_task(name, fewshot=0)))
            path.unlink()
        if None not in tasks:
            assert tasks[0].items == tasks[1].items


NAMES = st.one_of(TEXTS, st.sampled_from(["**", "/", "..", "*", "[", "{}", "a" * 300]))


def test_any_name_of_a_source_is_read_or_refused(tmp_path: Path):
    forms = ["hf:x:{}:data=FOLDER", "hf:x:question={}:data=FOLDER", "hf:x:choices={}:data=FOLDER",
             "benchmark:mmlu:subject={}:data=FOLDER", "benchmark:relations:relation={}:data=FOLDER",
             "benchmark:{}:data=FOLDER", "benchmark:gsm8k:data=FOLDER/{}", "hf:x:data=FOLDER/{}",
             "FOLDER/{}.toml", "FOLDER/{}.jsonl"]  # fmt: skip
    (tmp_path / "test.jsonl").write_text(json.dumps(MAPPED))

    @fuzz(OF_OTHERS, form=st.sampled_from(forms), text=NAMES)
    def tried(form: str, text: str):
        outcome(lambda: load_task(form.replace("FOLDER", str(tmp_path)).replace("{}", text)))


TASK_FILE = {
    "task": "mine.jsonl", "fewshot": "mine.jsonl", "system": "a", "question_prefix": "Q: ",
    "stop": ["a"], "max_tokens": 3, "extractor": "integer",
}  # fmt: skip
DOTS = st.sampled_from([3, 1000, 30_000]).map(lambda n: "a" + ".a" * n + " = 1")


@pytest.mark.usefixtures("little")
def test_any_task_file_is_read_or_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"question": "Who?", "answer": "Anna"}))
    monkeypatch.chdir(tmp_path)
    fields = changed_documents(TASK_FILE).map(
        lambda made: "\n".join(f"{name} = {json.dumps(value)}" for name, value in made.items())
    )

    @fuzz(OF_OTHERS, text=st.one_of(fields, DOTS, TEXTS))
    def tried(text: str):
        (tmp_path / "asked.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
        outcome(lambda: load_task("asked.toml"))


RUNS = st.builds(lambda one, n, end: one * n + end, st.sampled_from(["a", "_", "é", "a "]),
                 st.integers(0, 3000), st.sampled_from(["", "!", "b"]))  # fmt: skip


@pytest.mark.usefixtures("little")
def test_any_pattern_takes_an_answer_or_is_refused():
    @fuzz(OF_OTHERS, pattern=PATTERNS, text=RUNS)
    def tried(pattern: str, text: str):
        outcome(lambda: extractor(f"regex:{pattern}")(text))


LOGGED = {
    "doc_id": 0, "doc": {"text": "Where?"}, "target": "B", "arguments": [["Where?", " Rome"]],
    "filtered_resps": [["-1.5", "True"], ["-2.5", "False"]], "filter": "none", "metrics": ["acc"],
    "doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "acc": 1.0,
}  # fmt: skip
OF_LOGS = st.one_of(
    changed_documents(LOGGED).map(json.dumps),
    changed_documents(LOGGED).map(lambda row: json.dumps(row, ensure_ascii=False)),
    st.builds(
        lambda field, value: json.dumps(LOGGED | {field: value}),
        st.sampled_from(list(LOGGED)), st.one_of(SCALARS, st.sampled_from([10**400, [], {}])),
    ),
    deep(),
    st.just(json.dumps(LOGGED)),
    st.integers(300, 6000).map(lambda n: json.dumps(LOGGED)[:-4] + "9" * n + "}"),
)  # fmt: skip


def test_any_log_of_answers_is_compared_or_refused():
    @fuzz(
        OF_OTHERS,
        rows=st.lists(OF_LOGS, min_size=1, max_size=4),
        end=st.sampled_from(["\n", "\r\n", "\u2028", "\r"]),
        metric=st.sampled_from([None, "acc", "acc_norm"]),
    )
    def tried(rows: list[str], end: str, metric: str | None):
        with tempfile.TemporaryDirectory() as place:
            good, path = Path(place) / "good.jsonl", Path(place) / "other.jsonl"
            good.write_text(json.dumps(LOGGED))
            path.write_bytes(end.join(rows).encode("utf-8", "surrogatepass"))
            for pair in ((good, path), (path, good), (path, path)):
                found = outcome(lambda pair=pair: compare_logs(*pair, metric, n_resamples=100))
                if found is not None:
                    assert (
                        len(found.items) + sum(found.alone) + sum(found.repeated)
                        <= 2 * len(rows) + 1
                    )
                    assert 0 < found.p <= 1
                    assert "nan" not in str(found).splitlines()[0]


@pytest.mark.parametrize("kind", ["decoder", "seq2seq"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_any_description_of_a_model_is_read_or_refused(folder, tmp_path, kind, name):
    copy = tmp_path / kind
    shutil.copytree(folder if kind == "decoder" else tiny_seq2seq_folder("t5"), copy)
    document = json.loads((copy / name).read_bytes())

    @fuzz(OF_MODELS, content=document_files(document))
    def tried(content: bytes):
        (copy / name).write_bytes(content)
        same_twice(copy)


def assert_refused_or_runs(work: Callable[[], Any]) -> None:
    """Expect an outcome in a fork: code that cannot be interrupted fails here, and ends."""

    def outcome_of_work() -> int:
        outcome(work)
        return 0

    assert exit_code(fork_work(outcome_of_work), 60) == 0


STEPS = st.one_of(
    PATTERNS.map(lambda p: {"normalizer": replace_step({"Regex": p}, "c")}),
    REPLACEMENTS.map(lambda steps: {"normalizer": {"type": "Sequence", "normalizers": steps}}),
    REPLACEMENTS.map(lambda steps: {"decoder": {"type": "Sequence", "decoders": steps}}),
    PATTERNS.map(
        lambda p: {
            "pre_tokenizer": {
                "type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False,
            }
        }
    ),
)  # fmt: skip


@pytest.mark.usefixtures("little")
def test_any_tokenizer_encodes_or_is_refused(copied_model: Path, tmp_path: Path):
    document = json.loads((copied_model / "tokenizer.json").read_bytes())
    model = document["model"]
    token = next(iter(model["vocab"]))
    # With a huge id the library lists those that are missing below it.
    ids = st.sampled_from([2**24 - 1, 2**24, 2**32 - 2, 2**32]).map(
        lambda token_id: {"model": model | {"vocab": model["vocab"] | {token: token_id}}}
    )

    @fuzz(OF_MODELS, fields=st.one_of(STEPS, ids), text=RUNS)
    def tried(fields: dict[str, Any], text: str):
        (copied_model / "tokenizer.json").write_text(json.dumps(document | fields))

        def used() -> None:
            tokenizer = read_tokenizer(copied_model)
            tokenizer.decode(encode(tokenizer, text))

        with cache_folder(tmp_path / "cache"):
            assert_refused_or_runs(used)


@pytest.mark.usefixtures("little")
def test_any_chat_template_is_rendered_or_refused(folder: Path, tmp_path: Path):
    with cache_folder(tmp_path / "cache"):
        tokenizer = read_tokenizer(folder)

    @fuzz(OF_MODELS, template=TEMPLATES)
    def tried(template: str):
        tokenizer.chat_template = template
        assert_refused_or_runs(lambda: as_chat(tokenizer, "Who?"))


@pytest.mark.usefixtures("little")
def test_any_patterns_of_an_adapter_are_matched_or_refused(folder: Path, tmp_path: Path):
    pytest.importorskip("peft")
    fields = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "r": 2}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"x": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    more = st.one_of(
        PATTERNS.map(lambda p: {"target_modules": p}),
        PATTERNS.map(lambda p: {"exclude_modules": p, "target_modules": ["q_proj"]}),
        PATTERNS.map(lambda p: {"rank_pattern": {p: 1}, "target_modules": ["q_proj"]}),
    )

    @fuzz(OF_MODELS, more=more)
    def tried(more: dict[str, Any]):
        (adapter / "adapter_config.json").write_text(json.dumps(fields | more))
        assert_refused_or_runs(lambda: read_model(adapter, tmp_path / "cache"))


TASK_FIELDS = {
    "task": "mine", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
    "doc_to_text": "{{question}}", "doc_to_choice": "choices", "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}], "num_fewshot": 1,
}  # fmt: skip


@pytest.mark.usefixtures("little")
@pytest.mark.filterwarnings("ignore")  # of a template's text that is evaluated as a value
def test_any_task_file_of_the_harness_is_loaded_or_refused_and_runs_nothing(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    import datasets.config
    import huggingface_hub.constants

    nothing = SimpleNamespace(task_index={}, all_tasks=[], all_tags=[])
    monkeypatch.setattr(finding, "task_manager", lambda: nothing)  # which takes ten seconds
    for module in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    mark, path, data = tmp_path / "ran", tmp_path / "mine.yaml", tmp_path / "test.jsonl"
    (tmp_path / "code.py").write_text(CODE.format(mark=str(mark)) + "def run(*_): return 'Q'\n")
    asked = [{"question": f"Q{n}?", "choices": ["x", "y"], "label": n % 2} for n in range(3)]
    data.write_text("\n".join(map(json.dumps, asked)))
    fields = TASK_FIELDS | {"dataset_kwargs": {"data_files": {"test": str(data)}}}

    @fuzz(OF_OTHERS, content=task_files(fields), text=RUNS)
    def tried(content: bytes, text: str):
        path.write_bytes(content)
        task = outcome(lambda: load_task(f"lm-eval:{path}"))
        if task is not None and task.judge is not None:
            outcome(lambda: task.judge(task.items[0], text))
        assert not mark.exists()


def test_any_index_of_weights_is_read_or_refused(copied_model: Path, folder: Path, tmp_path: Path):
    tensors = load_file(copied_model / "model.safetensors")
    (copied_model / "model.safetensors").unlink()
    for number, names in enumerate((list(tensors)[::2], list(tensors)[1::2]), start=1):
        part = {name: tensors[name] for name in names}
        save_file(
            part, copied_model / f"model-{number}-of-2.safetensors", metadata={"format": "pt"}
        )
    shards = {name: f"model-{i % 2 + 1}-of-2.safetensors" for i, name in enumerate(tensors)}
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (tmp_path / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    outside = st.sampled_from(["../outside.safetensors", str(tmp_path / "outside.safetensors")])
    redirected = st.builds(
        lambda name, where: {**index, "weight_map": {**shards, name: where}},
        st.sampled_from(list(shards)), outside,
    )  # fmt: skip

    @fuzz(
        OF_MODELS,
        content=st.one_of(document_files(index), redirected.map(json.dumps).map(str.encode)),
    )
    def tried(content: bytes):
        (copied_model / "model.safetensors.index.json").write_bytes(content)
        same_twice(copied_model)
        if b"outside" in content:
            assert outcome(lambda: read_model(copied_model, tmp_path / "cache")) is None


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.bool]


def test_any_tensors_of_a_model_are_read_or_refused(copied_model: Path, folder: Path):
    tensors = load_file(folder / "model.safetensors")

    @fuzz(
        OF_MODELS,
        name=st.sampled_from(list(tensors)),
        change=st.sampled_from(["drop", "rename", "narrow", "transpose", "type", "nan", "add"]),
        dtype=st.sampled_from(DTYPES),
    )
    def tried(name: str, change: str, dtype: torch.dtype):
        made = dict(tensors)
        one = made.pop(name)
        if change != "drop":
            made[name + ".x" * (change == "rename")] = alter_tensor(one, change, dtype)
        if change == "add":
            made["model.layers.9.mlp.up_proj.weight"] = one.clone()
        save_file(made, copied_model / "model.safetensors", metadata={"format": "pt"})
        same_twice(copied_model)


def alter_tensor(tensor: torch.Tensor, change: str, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of another shape, number format or content."""
    match change:
        case "narrow":
            return tensor[:-1].clone()
        case "transpose":
            return tensor.T.contiguous() if tensor.ndim == 2 else tensor[None].clone()
        case "type":
            return tensor.to(dtype)
        case "nan":
            return torch.full_like(tensor, float("nan"))
        case _:
            return tensor


FIELDS = [
    "block_count", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "rope.dimension_count", "context_length", "vocab_size",
]  # fmt: skip


def test_any_header_of_a_gguf_file_is_read_or_refused(tmp_path: Path):
    path = write_gguf(tmp_path / "tiny.gguf")
    content = path.read_bytes()
    header = gguf.GGUFReader(path).data_offset
    numbers = st.sampled_from([0, 1, 3, 5, 7, 2**16, 2**30, 2**32 - 1])
    fields = st.builds(
        lambda name, value: with_number(content, f"llama.{name}", value),
        st.sampled_from(FIELDS), numbers,
    )  # fmt: skip
    names = ["blk.1.ffn_up.weight", "token_embd.weight", "blk.0.attn_q.weight"]
    renamed = st.sampled_from(names).map(
        lambda name: MutatedBytes(content.replace(name.encode(), name.encode()[::-1], 1))
    )

    @fuzz(OF_MODELS, made=st.one_of(fields, renamed, mutated_bytes(content, header)))
    def tried(made: bytes):
        path.write_bytes(made)
        same_twice(path)


NEIGHBOURS = {
    "tokenizer_config.json": {
        "tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]},
        "add_bos_token": True, "eos_token": "The", "chat_template": "{{ messages }}",
    },
    "config.json": {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
    "adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "owner/base"},
    "generation_config.json": {"eos_token_id": [1, 7], "max_length": 3},
    "special_tokens_map.json": {"eos_token": "The", "unk_token": {"content": "the"}},
    "added_tokens.json": {"the": 9, "new": 400},
    "tokenizer.json": {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}}},
    "model.safetensors.index.json": {"weight_map": {"a": "own.safetensors"}},
}  # fmt: skip
CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Own: pass\n"


@st.composite
def neighbours(draw: Any) -> dict[str, bytes]:
    """Files beside a model: documents that were changed or not, code, a template."""
    names = draw(st.sets(st.sampled_from(list(NEIGHBOURS)), min_size=1, max_size=4))
    as_it_is = {name: st.just(json.dumps(NEIGHBOURS[name]).encode()) for name in names}
    files = {
        name: draw(st.one_of(same, document_files(NEIGHBOURS[name])))
        for name, same in as_it_is.items()
    }
    if draw(st.booleans()):
        files["chat_template.jinja"] = draw(st.binary(max_size=20))
    return files


def test_no_neighbour_of_a_gguf_file_has_an_effect(tmp_path: Path, monkeypatch):
    content = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    expected, mark = read_model(tmp_path / "tiny.gguf", tmp_path / "cache"), tmp_path / "ran"

    @fuzz(OF_MODELS, files=neighbours())
    def tried(files: dict[str, bytes]):
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 99))
        with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as cache:
            folder = Path(place)
            (folder / "own.py").write_text(CODE.format(mark=str(mark)))
            for name, made in files.items():
                (folder / name).write_bytes(made)
            (folder / "tiny.gguf").write_bytes(content)
            found = outcome(lambda: read_model(folder / "tiny.gguf", Path(cache)))
        assert not mark.exists()
        assert found is not None
        assert found.identity == expected.identity
        assert found.numbers[:3] == expected.numbers[:3]


def with_number(content: bytes, name: str, value: int) -> bytes:
    """A GGUF file with another value of a field that is a 32-bit number."""
    at = content.index(name.encode()) + len(name) + 4
    return MutatedBytes(content[:at] + value.to_bytes(4, "little") + content[at + 4 :])


def test_any_tuned_lens_is_read_or_refused(tmp_path: Path):
    path = tmp_path / "lens.safetensors"
    facts = {
        "model": "x",
        "model_hash": "ab" * 32,
        "text_hash": "cd" * 32,
        "seed": 0,
        "kind": "full",
    }
    shapes = st.lists(st.sampled_from([0, 1, 2, 3, 16, 17]), max_size=3)

    @fuzz(
        OF_OTHERS,
        told=document_files(facts),
        bias=shapes,
        weight=st.one_of(st.none(), shapes),
        dtype=st.sampled_from(DTYPES),
        value=st.sampled_from([0.0, float("nan"), float("inf")]),
    )
    def tried(told: bytes, bias: list[int], weight: list[int] | None, dtype, value: float):
        made = {"bias": torch.zeros(bias)}
        if weight is not None:
            made["weight"] = torch.full(weight, value)
        made = {name: tensor.to(dtype) for name, tensor in made.items()}
        save_file(
            made,
            path,
            metadata={"layerwise.tuned_lens": told.decode("utf-8", "replace")},
        )
        found = outcome(lambda: read_lens(path))
        assert found is None, "nobody trained this lens"


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    finish_small_run(folder)
    return folder


@pytest.fixture
def run(finished_folder: Path, tmp_path: Path) -> Path:
    """A finished run in a folder that may be changed."""
    return shutil.copytree(finished_folder, tmp_path / "run")


COLUMN_TYPES = [
    pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.int8(), pa.float32(), pa.null(),
    pa.list_(pa.string()), pa.timestamp("ns"), pa.binary(), pa.dictionary(pa.int8(), pa.string()),
]  # fmt: skip


NUMBERS = ["n_layers", "n_encoder_layers", "n_heads", "d_model", "d_vocab", "n_ctx"]


def test_any_facts_of_a_run_are_read_or_refused(run: Path):
    document = json.loads((run / "run.json").read_bytes())

    def with_sizes(names: set[str], size: int) -> bytes:  # whose hash does not refuse the change
        changed = document | {"model": document["model"] | dict.fromkeys(names, size)}
        return with_list(changed, "run.json", document["files"])

    lying = st.builds(
        with_sizes, st.sets(st.sampled_from(NUMBERS), min_size=1), st.sampled_from(SIZES)
    )

    @fuzz(OF_OTHERS // 2, content=st.one_of(document_files(document), lying))
    def tried(content: bytes):
        (run / "run.json").write_bytes(content)
        outcome(lambda: [result.summary_rows() for result in load(run)])
        outcome(lambda: verify(run))


def test_any_number_of_rows_is_read_or_refused(run: Path):
    path = run / "records.parquet"
    table = pq.read_table(path)

    @fuzz(
        OF_OTHERS,
        name=st.sampled_from(table.column_names),
        rows=st.sampled_from([2 * 10**7, 10**8]),
    )
    def tried(name: str, rows: int):
        pq.write_table(pa.table({name: pa.nulls(rows)}), path, row_group_size=rows)
        synthetic.list_anew(run)
        assert outcome(lambda: load(run)) is None
        found = outcome(lambda: verify(run))
        assert found is None or not found.ok


@pytest.mark.filterwarnings("ignore")  # of peft and transformers
def test_any_rank_of_an_adapter_is_read_or_refused(folder: Path, tmp_path: Path):
    pytest.importorskip("peft")
    from tests.models.test_adapters import LLAMA, lora, write_adapter

    adapter = tmp_path / "adapter"
    write_adapter(folder, adapter, lora(**LLAMA))
    path = adapter / "adapter_config.json"
    fields = json.loads(path.read_bytes())

    @fuzz(
        OF_OTHERS,
        name=st.sampled_from(["r", "rank_pattern", "lora_alpha", "lora_dropout"]),
        size=st.sampled_from([*SIZES, 1e308, "many", [3]]),
    )
    def tried(name: str, size: Any):
        changed_to = {"q_proj": size} if name == "rank_pattern" else size
        path.write_text(json.dumps(fields | {name: changed_to}))
        with tempfile.TemporaryDirectory() as cache:
            outcome(lambda: read_model(adapter, Path(cache)))


def test_any_table_is_read_or_refused(run: Path):
    path = run / "records.parquet"
    table = pq.read_table(path)

    @fuzz(
        OF_OTHERS,
        name=st.sampled_from(table.column_names),
        change=st.sampled_from(["drop", "type", "values", "twice", "rows"]),
        kind=st.sampled_from(COLUMN_TYPES),
        values=st.lists(SCALARS, min_size=1, max_size=4),
    )
    def tried(name: str, change: str, kind: pa.DataType, values: list[Any]):
        pq.write_table(other_table(table, name, change, kind, values), path)
        outcome(lambda: [result.summary_rows() for result in load(run)])


def other_table(
    table: pa.Table, name: str, change: str, kind: pa.DataType, values: list[Any]
) -> pa.Table:
    """A table of which one column is gone, is of another type or has other values."""
    at = table.column_names.index(name)
    match change:
        case "drop":
            return table.remove_column(at)
        case "type":
            return table.set_column(at, name, pa.nulls(len(table), kind))
        case "twice":
            return table.append_column(name, table.column(at))
        case "rows":
            return table.slice(0, len(values) - 1)
        case _:
            try:
                column = pa.array((values * len(table))[: len(table)], table.schema.field(at).type)
            except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
                return table.remove_column(at)
            return table.set_column(at, name, column)


def test_the_fuzzer_finds_weights_that_are_drawn_anew(folder: Path, monkeypatch):
    real = read_model

    def drawing(path: Path, cache: Path) -> Any:
        found = real(path, cache)
        return replace(found, numbers=torch.rand(1).item())

    monkeypatch.setattr(f"{__name__}.read_model", drawing)
    with pytest.raises(AssertionError, match="others at each load"):
        same_twice(folder)
