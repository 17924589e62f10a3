"""Two logs of lm-evaluation-harness compared: by document, and never past what is no log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

import layerwise as lw
from layerwise.errors import UserError
from tests.commands import assert_command_refused, run


def write(path, values, metric="acc", **more):
    rows = [
        {
            "doc_id": number, "doc": {}, "target": "B", "filter": "none", "metrics": [metric],
            "doc_hash": f"d{number}", "prompt_hash": "p", "target_hash": "t",
            "filtered_resps": [["A" if value else "C"]], metric: value, **more,
        }
        for number, value in enumerate(values)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_the_test_is_mcnemars_by_hand(tmp_path):
    first = write(tmp_path / "a.jsonl", [1.0] * 20 + [0.0] * 10 + [0.0] * 4 + [1.0] * 1)
    second = write(tmp_path / "b.jsonl", [1.0] * 20 + [1.0] * 10 + [0.0] * 4 + [0.0] * 1)
    found = lw.compare_logs(first, second)
    assert found.p == pytest.approx(binomtest(1, 11).pvalue)
    assert (found.first, found.second) == (21 / 35, 30 / 35)
    assert found.difference.estimate == pytest.approx(9 / 35)
    assert found.difference.low < 9 / 35 < found.difference.high
    assert found.changed_items["doc_id"].tolist() == [*range(20, 30), 34]
    assert "better on 10 items and worse on 1" in str(found)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ([["-9.5", "False"], ["-2.5", "True"], ["-3", "False"]], "1"),
        ([[-9.5, False], [-12.5, False]], "0"),
        (["Paris"], "Paris"),
        ([["Paris", "Rome"]], "['Paris', 'Rome']"),
        ("", ""),
    ],
)
def test_of_options_the_most_likely_is_named(tmp_path, given, answer):
    first = write(tmp_path / "a.jsonl", [1.0], filtered_resps=given)
    second = write(tmp_path / "b.jsonl", [0.0], filtered_resps=["C"])
    assert lw.compare_logs(first, second).changed_items["first_answer"].tolist() == [answer]


def test_items_are_paired_by_what_was_asked_not_by_place(tmp_path):
    first = write(tmp_path / "a.jsonl", [1.0, 0.0, 1.0])
    lines = write(tmp_path / "b.jsonl", [1.0, 0.0, 1.0]).read_text("utf-8").splitlines()
    other = tmp_path / "c.jsonl"
    other.write_text("\n".join([lines[2], lines[0]]), "utf-8")
    found = lw.compare_logs(first, other)
    assert found.difference.estimate == 0
    assert found.alone == (1, 0)
    assert "1 and 0 items are in one log alone" in str(found)


def test_what_is_no_share_of_right_answers_is_compared_too(tmp_path):
    first = write(tmp_path / "a.jsonl", [0.1, 0.2, 0.3, 0.4], "f1")
    second = write(tmp_path / "b.jsonl", [0.5, 0.6, 0.7, 0.8], "f1", prompt_hash="q")
    found = lw.compare_logs(first, second)
    assert found.metric == "f1"
    assert found.p == pytest.approx(2 / 16)
    assert found.other_prompts == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "line 1: it is not JSON"),
        ('{"doc_id": 1}', "'doc_hash' is missing; expected a file samples_TASK"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, text, message):
    good = write(tmp_path / "a.jsonl", [1.0])
    (tmp_path / "b.jsonl").write_text(text, "utf-8")
    with pytest.raises(lw.UserError, match=message):
        lw.compare_logs(good, tmp_path / "b.jsonl")


def test_logs_of_other_tasks_and_unknown_metrics_are_refused(tmp_path):
    first = write(tmp_path / "a.jsonl", [1.0, 0.0])
    second = write(tmp_path / "b.jsonl", [1.0, 0.0], target_hash="other")
    with pytest.raises(lw.UserError, match="share no item"):
        lw.compare_logs(first, second)
    with pytest.raises(lw.UserError, match="Did you mean 'acc'"):
        lw.compare_logs(first, first, "ac")
    bare = write(tmp_path / "c.jsonl", [1.0, 0.0], "perplexity")
    with pytest.raises(lw.UserError, match="share no accuracy"):
        lw.compare_logs(bare, bare)


def test_the_command_compares_logs_without_a_model(tmp_path):
    first = write(tmp_path / "a.jsonl", [1.0, 0.0])
    assert "p = 1" in run("compare", first, first).out
    code = (
        "import sys, layerwise as lw\n"
        f"lw.compare_logs({str(first)!r}, {str(first)!r})\n"
        "print([m for m in ('torch', 'transformers', 'lm_eval') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def log_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")]


def log(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


BETTER = [0.0] * 7 + [1.0] * 3 + [1.0] * 5, [1.0] * 7 + [0.0] * 3 + [1.0] * 5


@pytest.mark.parametrize("n_copies", [2, 5])
def test_copies_of_a_document_count_once(tmp_path, n_copies):
    one, other = (write(tmp_path / f"{i}.jsonl", right) for i, right in enumerate(BETTER))
    single = lw.compare_logs(one, other)
    copies = [log(path.with_suffix(".copies.jsonl"), log_rows(path) * n_copies)
              for path in (one, other)]  # fmt: skip
    several = lw.compare_logs(*copies)
    assert (several.p, several.difference) == (single.p, single.difference)
    assert several.repeated == (15 * (n_copies - 1),) * 2
    assert f"{15 * (n_copies - 1)} rows repeat a document" in str(several)
    assert lw.compare_logs(one, copies[1]).p == single.p


@pytest.mark.parametrize("n_copies", [2, 5])
def test_items_of_one_document_are_resampled_and_flipped_together(tmp_path, n_copies):
    one, other = (write(tmp_path / f"{i}.jsonl", right) for i, right in enumerate(BETTER))
    single = lw.compare_logs(one, other)
    named = [
        log(path, [row | {"doc_id": 100 * k + row["doc_id"]}
                   for k in range(n_copies) for row in log_rows(path)])
        for path in (one, other)
    ]  # fmt: skip
    several = lw.compare_logs(*named)
    assert several.p == pytest.approx(single.p)
    assert several.difference == pytest.approx(single.difference)
    assert (len(several.items), several.n_documents) == (15 * n_copies, 15)
    assert "They are of 15 documents; items of one document are tested together" in str(several)
    soft = [write(tmp_path / f"f{i}.jsonl", 0.3 * np.array(right) + 0.1, "f1")
            for i, right in enumerate(BETTER)]  # fmt: skip
    before = lw.compare_logs(*soft).p
    for path in soft:
        log(path, [row | {"doc_id": f"{k} {row['doc_id']}"}
                   for k in range(n_copies) for row in log_rows(path)])  # fmt: skip
    assert lw.compare_logs(*soft).p == before


def test_rows_of_one_document_that_disagree_are_refused(tmp_path):
    good = write(tmp_path / "a.jsonl", [1.0, 0.0])
    first, second = log_rows(good)
    log(tmp_path / "b.jsonl", [first, second, second | {"acc": 1.0}])
    with pytest.raises(UserError, match=r"line 3: document 1 has acc 1, and 0 in line 2"):
        lw.compare_logs(good, tmp_path / "b.jsonl")
    log(tmp_path / "b.jsonl", [first, second, second | {"doc_hash": "of another task"}])
    with pytest.raises(UserError, match=r"line 3: document 1 is another one than in line 2"):
        lw.compare_logs(tmp_path / "b.jsonl", good)


def test_the_same_filter_of_both_logs_is_compared(tmp_path):
    strict, loose = [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]
    made = [
        log_rows(write(tmp_path / name, right, filter=name))
        for name, right in (("strict", strict), ("loose", loose))
    ]
    one = log(tmp_path / "a.jsonl", made[0] + made[1])
    other = log(tmp_path / "b.jsonl", made[1] + made[0])
    assert lw.compare_logs(one, other).difference.estimate == 0
    with pytest.raises(UserError, match="share no filter"):
        lw.compare_logs(log(one, made[0]), log(other, made[1]))


def test_a_value_that_is_no_finite_number_is_refused_with_its_line(tmp_path):
    good = write(tmp_path / "a.jsonl", [1.0, 0.0])
    first, second = log_rows(good)
    infinite = float("inf")
    for value in (float("nan"), infinite, -infinite, 10**400, 1e308, "1", None, [1], {}):
        log(tmp_path / "b.jsonl", [first, second | {"acc": value}])
        says = r"b.jsonl', line 2: 'acc' is .*; expected a finite number"
        with pytest.raises(UserError, match=says):
            lw.compare_logs(good, tmp_path / "b.jsonl")


WRONG = [None, True, 3, 0.5, float("nan"), 10**400, [], ["x"], {}, {"x": 1}]


@pytest.mark.parametrize("field", ["doc_id", "doc_hash", "target_hash", "prompt_hash", "filter"])
def test_a_field_of_another_type_is_refused_with_its_line(tmp_path, field):
    good = write(tmp_path / "a.jsonl", [1.0, 0.0])
    first, second = log_rows(good)
    says = rf"line 2: field '{field}' is .*, no (text|number or text); expected a file"
    fits = {"doc_id": (3, 10**400), "filter": (None,)}.get(field, ())
    for value in WRONG:
        if not any(value is one or (type(value) is int and value == one) for one in fits):
            log(tmp_path / "b.jsonl", [first, second | {field: value}])
            with pytest.raises(UserError, match=says):
                lw.compare_logs(tmp_path / "b.jsonl", good)


@pytest.mark.parametrize("field", ["target", "filtered_resps", "doc", "metrics"])
def test_what_is_only_shown_may_be_anything(tmp_path, field):
    good = write(tmp_path / "a.jsonl", [1.0, 0.0])
    first, second = log_rows(good)
    for value in [*WRONG, "\u2028", "\x1b[2J", [[10**400, True], [1, "False"]]]:
        other = log(tmp_path / "b.jsonl", [first | {"acc": 0.0, field: value}, second])
        found = lw.compare_logs(good, other)
        assert found.difference.estimate == -0.5
        assert "\x1b" not in str(found)


def test_a_text_with_separators_of_lines_is_one_text(tmp_path):
    log_of = write(tmp_path / "a.jsonl", [1.0, 0.0])
    texts = "one\u2028two\u2029three\x85four"
    rows = [row | {"doc": {"text": texts}, "target": texts} for row in log_rows(log_of)]
    for end in ("\n", "\r\n"):
        content = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
        log_of.write_bytes(content.encode())
        assert len(lw.compare_logs(log_of, log_of).items) == 2


def test_a_sample_that_is_all_alike_still_leaves_room(tmp_path):
    same = write(tmp_path / "a.jsonl", [1.0] * 12)
    found = lw.compare_logs(same, same)
    assert found.difference.low < -0.2 < 0.2 < found.difference.high
    one = write(tmp_path / "b.jsonl", [1.0])
    assert "[no interval]" in str(lw.compare_logs(one, one))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder", "missing"])
def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path, kind):
    good, bad = write(tmp_path / "a.jsonl", [1.0]), tmp_path / "b.jsonl"
    match kind:
        case "pipe":
            os.mkfifo(bad)
        case "device":
            bad.symlink_to("/dev/zero")
        case "link":
            os.mkfifo(tmp_path / "pipe")
            bad.symlink_to(tmp_path / "pipe")
        case "folder":
            bad.mkdir()
    with pytest.raises(UserError, match=r"b.jsonl' cannot be read \(.*\); give the path of a"):
        lw.compare_logs(good, bad)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("layerwise.analyses.comparison.harness_logs._MOST_BYTES", 2000)
    good = write(tmp_path / "a.jsonl", [1.0])
    (tmp_path / "b.jsonl").write_text('{"doc_id": "' + "x" * 3000 + '"}')
    with pytest.raises(UserError, match="line 1: longer than 2,000 bytes; expected one item a li"):
        lw.compare_logs(good, tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "page"], "without a page: leave --out out"),
        (["--resamples", "0"], "0 bootstrap samples are too few"),
        (["--group", "x=a,b"], "Logs are compared two at a time"),
        (["third.jsonl"], "Logs are compared two at a time"),
        (["a_run"], "Logs are compared two at a time"),
    ],
)
def test_options_that_do_not_fit_logs_are_refused(tmp_path, options, says):
    path = write(tmp_path / "a.jsonl", [1.0, 0.0])
    assert_command_refused("compare", path, path, *options, says=says, unchanged=tmp_path)


def test_seed_and_resamples_decide_the_interval(tmp_path):
    one, other = (write(tmp_path / f"{i}.jsonl", right) for i, right in enumerate(BETTER))
    given = [("--seed", "0"), ("--seed", "1"), ("--resamples", "100")]
    printed = {run("compare", one, other, *options).out for options in given}
    assert len(printed) > 1
