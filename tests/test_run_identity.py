"""Identity of a run: a run that differs does not go on, nor come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from transformers.utils import chat_template_utils

import layerwise as lw
from layerwise.analyses.ablation import job as ablation_job
from layerwise.errors import OtherEnvironmentWarning, UserError
from layerwise.models import model_facts, original_tokenizer
from layerwise.models.instance.facts import tokenizer_hash
from layerwise.report._page import facts_tables
from layerwise.runs import encoding, folder
from layerwise.runs.encoding import EncodingCache
from layerwise.runs.setup import Setup, prepare
from layerwise.storage.provenance import installed_versions, read_facts
from layerwise.storage.run_tables import RunTables
from tests import commands
from tests.analysis import word_task, write_jsonl
from tests.cases import few_by_day
from tests.models.tiny import tiny_folder, tiny_model, tiny_tokenizer
from tests.stopping import stop_after
from tests.synthetic import list_anew

DATED = "{{ strftime_now('%d %b') }}: {% for turn in messages %}{{ turn['content'] }}{% endfor %}\n"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(ablation_job, "ITEMS_AT_ONCE", 2)


@pytest.fixture
def model(tmp_path) -> Any:
    """A model of this test alone, with a chat template that knows the date."""
    path = tiny_folder(tmp_path, "llama")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(path)
    return lw.load_model(path)


def ablate(model: Any, task: Any, out: Path | None, **options: Any) -> Any:
    given = {"layers": [0], "out": out, "progress": False} | options
    return lw.ablate(model, task, "continuation", **given)


def begin(model: Any, task: Any, out: Path, **options: Any) -> None:
    """A run that is stopped after its first piece."""
    with stop_after(2):
        ablate(model, task, out, **options)
    assert list((out / "parts").iterdir())


def assert_run_refused(model: Any, task: Any, out: Path, says: str, **options: Any) -> None:
    """The same call again is refused, and leaves the folder as it was."""
    before = commands.contents(out)
    with pytest.raises(UserError, match="holds a run with other settings") as refusal:
        ablate(model, task, out, **options)
    assert f"({says})" in str(refusal.value)
    assert commands.contents(out) == before


class Clock:
    """In place of ``datetime`` for chat templates: some days further on."""

    def __init__(self) -> None:
        self.days, self.reads, self.turns = 0, 0, 10**9

    def now(self) -> datetime:
        """The first day of 2026, or as many days later; one more after so many readings."""
        self.reads += 1
        days = self.days + (self.reads > self.turns)
        return datetime(2026, 1, 1) + timedelta(days)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(chat_template_utils, "datetime", found)
    # Another process would read its own clock.
    monkeypatch.setattr("layerwise.tasks._encoding.is_untrusted", lambda tokenizer: False)
    return found


@pytest.mark.long
def test_a_template_with_the_date_does_not_mix_two_days(model, clock, tmp_path):
    task, out = word_task(4), tmp_path / "run"
    begin(model, task, out, chat=True)
    clock.days = 1
    assert_run_refused(
        model, task, out, chat=True,
        says="the prompts changed (a chat template may put today's date in)",
    )  # fmt: skip
    clock.days = 0
    ablate(model, task, out, chat=True)
    lines = (out / "requests.jsonl").read_text().splitlines()
    assert all("01 Jan: " in json.loads(line)["context"] for line in lines)


def test_other_seeds_are_not_told_as_other_prompts(model, clock, tmp_path):
    begin(model, word_task(4), tmp_path / "run", chat=True)
    clock.days = 1
    says = "seed was 0 and is now 1"
    assert_run_refused(model, word_task(4), tmp_path / "run", says, chat=True, seed=1)


def test_midnight_within_a_run_is_an_error(model, clock, monkeypatch):
    """Requests that there was no room to keep are encoded again."""
    monkeypatch.setattr(encoding, "_MOST_TOKENS", 0)
    clock.turns = 40
    with pytest.raises(UserError, match="prompts of task 'words' changed while the run went on"):
        ablate(model, word_task(6), None, chat=True)


def test_a_worker_makes_the_prompts_of_the_process_that_planned(model, clock):
    task = word_task(2)
    here = prepare(model, task, "continuation", chat=True)
    here.requests(task, task.items[0], "continuation")
    there = replace(here, built=EncodingCache())
    there.requests(task, task.items[0], "continuation")
    there.built.expect(here.built.digests)
    there.requests(task, task.items[0], "continuation")
    clock.days = 1
    later = replace(here, built=EncodingCache())
    later.requests(task, task.items[0], "continuation")
    later.built.expect(here.built.digests)
    with pytest.raises(UserError, match="changed while the run went on"):
        later.requests(task, task.items[0], "continuation")


def rewrite(path: Path, number: int, **fields: Any) -> None:
    """Change fields of a line of a JSONL file; of all lines if it is -1."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines if number < 0 else [lines[number]]:
        line.update(fields)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


EDITS = {
    "capability": (
        lambda path: rewrite(path, -1, capability="reasoning"),
        'task mine capability was "knowledge" and is now "reasoning"',
    ),
    "a line beyond the limit": (
        lambda path: rewrite(path, 5, answer="red", choices=["red", "blue", "two"]),
        "task mine items not asked: other items",
    ),
    "lines beyond the limit are gone": (
        lambda path: path.write_text("".join(path.read_text().splitlines(True)[:5])),
        "task mine items not asked: 4 items -> 1 items",
    ),
    "a line": (
        lambda path: rewrite(path, 1, question="the blue of the red is"),
        "task mine: other items",
    ),
}


@pytest.mark.parametrize(
    ("edit", "finished"),
    few_by_day(
        [*((edit, False) for edit in EDITS), ("capability", True)],
        ("a line", False), ("lines beyond the limit are gone", False), ("capability", True),
    ),
)  # fmt: skip
def test_an_edited_file_of_questions_is_refused_in_words(edit, finished, tmp_path):
    model, out = tiny_model("llama"), tmp_path / "run"
    path = write_jsonl(tmp_path / "mine.jsonl", word_task(8, "mine").items, capability="knowledge")
    options = {"limit": 4, "fewshot": 0}
    (ablate if finished else begin)(model, str(path), out, **options)
    change, says = EDITS[edit]
    change(path)
    before = commands.contents(out)
    with pytest.raises(UserError, match="holds a run with other settings") as refusal:
        ablate(model, str(path), out, **options)
    assert says in str(refusal.value)
    assert commands.contents(out) == before


# One of those that make one result, and each that does otherwise.
OTHERS: dict[str, Any] = {
    "lens": lw.logit_lens,
    "pruning": partial(lw.prune_model, remove=[1]),
    "profile": partial(lw.profile, pairs=1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_analyses_refuse_an_edited_file_too(name, tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", word_task(8, "mine").items)
    options = {"protocols": "continuation", "limit": 4, "fewshot": 0}

    def run() -> None:
        OTHERS[name](tiny_model("llama"), tasks=str(path), out=tmp_path / "run", **options)

    run()
    rewrite(path, 5, answer="red", choices=["red", "blue", "two"])
    before = commands.contents(tmp_path / "run")
    with pytest.raises(UserError, match=r"other settings .*task mine items not asked: other items"):
        run()
    assert commands.contents(tmp_path / "run") == before


def test_fewer_items_are_told_by_their_number(tmp_path):
    model, out = tiny_model("llama"), tmp_path / "run"
    begin(model, word_task(12), out)
    assert_run_refused(model, word_task(8), out, "task words: 12 items -> 8 items")


def test_a_change_of_the_tokenizer_alone_is_refused(model, tmp_path):
    out = tmp_path / "run"
    begin(model, word_task(4), out)
    tokenizer = original_tokenizer(model)
    tokenizer.chat_template = "{{ messages }}"
    assert_run_refused(model, word_task(4), out, "the tokenizer changed")


def test_a_tokenizer_is_known_by_what_it_makes_tokens_with():
    first, again = tiny_tokenizer(), tiny_tokenizer()
    known = tokenizer_hash(first)
    again(["a key", "the red key"], padding=True, truncation=True, max_length=1)
    assert tokenizer_hash(again) == known
    again.eos_token = "<s>"
    others = {tokenizer_hash(one) for one in (tiny_tokenizer(bos=True), again)}
    others.add(tokenizer_hash(tiny_tokenizer(vocab_size=290)))
    assert len(others | {known}) == 4


def test_a_tokenizer_of_sentencepiece_is_known_by_its_models():
    def of(source: bytes, target: bytes = b"target") -> Any:
        return SimpleNamespace(
            get_vocab=lambda: {"key": 0, "red": 1},
            spm_source=SimpleNamespace(serialized_model_proto=lambda: source),
            spm_target=SimpleNamespace(serialized_model_proto=lambda: target),
        )

    known = tokenizer_hash(of(b"source"))
    assert tokenizer_hash(of(b"source")) == known
    assert tokenizer_hash(of(b"sourse")) != known


def edit_weight(model: Any) -> None:
    """Change a weight in a way that torch does not count."""
    next(model.parameters()).data.mul_(1.5)


def test_weights_that_were_edited_between_two_calls_are_refused(model, tmp_path):
    begin(model, word_task(4), tmp_path / "run")
    edit_weight(model)
    assert_run_refused(model, word_task(4), tmp_path / "run", "the weights changed")


@pytest.fixture
def edit_after_first_sweep(model, monkeypatch) -> Iterator[None]:
    """The model's weights are changed after its first sweep, and no more."""
    real = Setup.sweep

    def sweep(self: Setup, *args: Any, **more: Any) -> Any:
        found = real(self, *args, **more)
        monkeypatch.setattr(Setup, "sweep", real)
        edit_weight(model)
        return found

    monkeypatch.setattr(Setup, "sweep", sweep)
    return


@pytest.mark.usefixtures("edit_after_first_sweep")
def test_weights_that_are_edited_during_a_run_are_an_error(model):
    with pytest.raises(UserError, match=r"weights of .* changed while the run went on"):
        ablate(model, word_task(4), None)


@pytest.mark.long
@pytest.mark.usefixtures("edit_after_first_sweep")
def test_what_weights_made_that_changed_is_not_gone_on_with(model, tmp_path):
    original = next(model.parameters()).detach().clone()
    with pytest.raises(UserError, match="changed while the run went on, and what it computed"):
        ablate(model, word_task(4), tmp_path / "run")
    assert not (tmp_path / "run" / "parts").exists()
    next(model.parameters()).data.copy_(original)
    again, fresh = (ablate(model, word_task(4), out) for out in (tmp_path / "run", None))
    pd.testing.assert_frame_equal(again.records, fresh.records)


@pytest.mark.usefixtures("edit_after_first_sweep")
def test_a_model_that_changes_while_heads_are_scored_is_an_error(model, monkeypatch):
    from layerwise.analyses.heads.api import Heads

    real = Heads.drawn_sequences
    monkeypatch.setattr(
        Heads, "drawn_sequences", lambda self: edit_weight(self.model) or real(self)
    )
    with pytest.raises(UserError, match="changed while the run went on"):
        lw.head_scores(model, sequences=1, length=8, progress=False)


def test_a_run_that_goes_on_under_another_torch_says_so(model, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        older = installed_versions() | {"torch": "2.0.1"}
        patch.setattr(folder, "installed_versions", lambda: older)
        begin(model, word_task(4), out)
    newer = installed_versions()["torch"]
    told = f"torch (2.0.1, {newer})"
    with pytest.warns(OtherEnvironmentWarning) as warned:
        found = ablate(model, word_task(4), out)
    assert f"goes on under other {told} than it began with" in str(warned[0].message)
    for facts in (found.facts, read_facts(out)):
        assert [one["torch"] for one in facts.environments] == ["2.0.1", newer]
        (versions,) = (t for t in facts_tables(RunTables(facts)) if t.title == "Versions")
        assert versions.note == (
            f"Parts of this run were made under different {told}: last digits may differ."
        )
        assert not versions.collapsed


@pytest.mark.long
def test_threads_are_kept_of_each_piece(model, tmp_path):
    out, threads = tmp_path / "run", torch.get_num_threads()
    begin(model, word_task(4), out)
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(OtherEnvironmentWarning, match=rf"threads \({threads}, {threads + 1}\)"):
            found = ablate(model, word_task(4), out)
    finally:
        torch.set_num_threads(threads)
    assert {one["threads"] for one in found.facts.environments} == {threads, threads + 1}


def test_an_undisturbed_run_says_what_it_was_made_under(tmp_path):
    found = ablate(tiny_model("llama"), word_task(4), tmp_path / "run")
    in_memory = ablate(tiny_model("llama"), word_task(4), None)
    (environment,) = found.facts.environments
    assert found.facts.environments == in_memory.facts.environments
    assert environment["kernels"] == torch.backends.cpu.get_cpu_capability()
    assert environment.items() >= installed_versions().items()
    (versions,) = (t for t in facts_tables(RunTables(found.facts)) if t.title == "Versions")
    assert not versions.note


@pytest.mark.long
def test_a_kept_run_of_a_study_without_these_settings_comes_back(tmp_path):
    model, out = tiny_model("llama"), tmp_path / "run"
    ablate(model, word_task(4), out)
    settings = json.loads((out / "run.json").read_text())["settings"]
    for name in ("tokenizer_hash", "tasks_as_read", "prompts_hash"):
        del settings[name]
    list_anew(out, settings=settings)
    ablate(model, word_task(4, description="other words"), out)
    assert_run_refused(model, word_task(3), out, "task words: 4 items -> 3 items")


def test_the_files_of_a_second_model_belong_to_the_run():
    first, second = (prepare(tiny_model("llama", seed=n), word_task(), "letter") for n in (0, 1))
    assert "beside" not in first.settings()
    (files,) = replace(first, beside=(second,)).settings()["beside"].values()
    assert files["tokenizer_hash"] == tokenizer_hash(second.tokenizer)


def test_prompts_longer_than_a_table_of_positions_change_no_weights():
    """TransformerLens makes 2,048 positions, and more when a prompt needs them."""
    model = tiny_model("llama", max_position_embeddings=4096)
    before = model_facts(model)
    task = word_task(1)
    (item,) = task.items
    long = replace(item, question=" ".join([item.question] * 200))
    result = lw.score(model, replace(task, items=(long,)), "continuation", progress=False)
    assert len(model.blocks[0].attn.rotary_cos) > 2048
    assert result.facts.model.hash == before.hash
    assert model_facts(model).verified == before.verified
