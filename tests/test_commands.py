"""Commands are their public functions: none is forgotten, none has other options or defaults."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main

import layerwise as lw
from layerwise.cli import saved_runs, signatures
from layerwise.cli.app import GROUPS, app
from layerwise.cli.commands import COMMANDS, targets
from layerwise.cli.completion import complete_task
from layerwise.cli.options import Flag, Option, help_text
from layerwise.cli.signatures import Parameter, import_function, read_signature
from layerwise.models import load_model
from layerwise.planning.plan import plan_run
from tests.commands import assert_refused, run

# It joins results that are in memory; two take functions; of looks at prompts, ``look`` shows the
# two first ones.
NO_COMMAND = {"emergence"} | {"intervene", "patch"} | {
    "attention_grid", "attribute", "lens_grid", "patch_grid", "skip_grid",
}  # fmt: skip
# Written out, as what they take is not one function's.
WITHOUT_A_SIGNATURE = (
    "models", "tasks", "claims", "look", "report", "show", "figures", "items", "verify", "compare",
)  # fmt: skip
GROUP: Any = typer.main.get_command(app)
# At the command line they are something else, and why.
OWN_DEFAULTS = {
    ("prune", "limit"): 10,  # a few items show whether the written model does what it should
    ("lens", "positions"): "-1",  # written as a text
}


@pytest.mark.parametrize("target", targets())
def test_saved_signatures_are_those_of_the_functions(target):
    """``make docs`` writes them again."""
    saved, live = signatures.saved_signatures()[target], read_signature(target)
    as_saved = json.loads(json.dumps([one._asdict() for one in live.parameters.values()]))
    assert [one._asdict() for one in saved.parameters.values()] == as_saved
    assert saved.summary == live.summary


def test_no_signature_is_saved_that_no_command_needs():
    assert sorted(signatures.saved_signatures()) == targets()


def test_paths_are_texts_to_typer_whose_releases_make_different_paths_of_them():
    declared = [command.as_function() for command in COMMANDS.values()]
    for function in (*declared, saved_runs.report, saved_runs.verify, saved_runs.compare):
        kinds = str(list(get_type_hints(function).values()))
        assert "str" in kinds
        assert "Path" not in kinds


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_options_are_the_functions_parameters_and_the_models(name):
    command, live = (
        COMMANDS[name],
        inspect.signature(import_function(COMMANDS[name].target)).parameters,
    )
    expected = {*live, *command.loading_options()} - {"progress"}
    assert {each.name for each in GROUP.commands[name].params} == expected
    for each in GROUP.commands[name].params:
        of = live.get(each.name) or inspect.signature(load_model).parameters[each.name]
        given = tuple(each.default) if isinstance(each.default, list) else each.default
        usual = OWN_DEFAULTS.get((name, each.name), of.default)
        if each.name == "model":
            continue
        assert each.required == (usual is inspect.Parameter.empty)
        assert each.required or given in (usual, (usual,))


def test_every_public_function_that_takes_a_model_or_folders_has_a_command():
    commanded = {import_function(command.target) for command in COMMANDS.values()}
    for name in set(lw.__all__) - NO_COMMAND:
        function = getattr(lw, name)
        if not inspect.isfunction(function):
            function = getattr(function, name, None)
        first = next(iter(inspect.signature(function).parameters), "") if function else ""
        if first == "model":
            assert function in commanded, f"{name} has no command"
    assert plan_run in commanded
    assert {"report", "verify", "compare"} <= set(GROUP.commands)


def test_help_and_the_page_list_every_command_once_by_its_question(monkeypatch):
    names = list(chain.from_iterable(GROUPS.values()))
    assert sorted(names) == sorted({*COMMANDS, *WITHOUT_A_SIGNATURE})
    assert list(GROUP.commands) == names
    monkeypatch.setenv("COLUMNS", "80")
    said = re.sub(r"\x1b\[[\d;]*m", "", run("--help").out)  # typer draws in colour on GitHub
    places = [said.index(f"─ {question} ─") for question in GROUPS]
    ends = [*places[1:], len(said)]
    for listed, place, end in zip(GROUPS.values(), places, ends, strict=True):
        assert tuple(re.findall(r"^│ ([a-z-]+)  ", said[place:end], re.MULTILINE)) == listed
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| (`.*?) \|$", page, re.MULTILINE)
    told = {question: tuple(re.findall("`([a-z-]+)`", cell)) for question, cell in rows}
    assert list(told.items()) == list(GROUPS.items())


def test_commands_that_take_a_model_say_what_runs_it_and_where_its_weights_are():
    """``docs/models/memory.md`` says so, and which of them need the weights in memory."""
    loading = {name: {**one.options(), **one.loading_options()} for name, one in COMMANDS.items()}
    assert [name for name, options in loading.items() if "backend" not in options] == []
    in_memory = [name for name, options in loading.items() if "offload" not in options]
    assert in_memory == ["transplant", "distill", "heal", "plan"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_that_does_not_speak_of_python(name):
    for each in GROUP.commands[name].params:
        assert each.help[-1] in ".!" or each.help == "Show this message and exit."
        for word in ("``", "None", "True", "Path", "``Task``"):
            assert word not in each.help, (each.name, each.help)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the first so many; all if None.", "The first so many; all if left out."),
        ('``engine``, or "slow".', "engine, or slow."),
        ("If None the heads.", "If left out the heads."),
    ],
)
def test_help_is_made_of_a_docstring(text, told):
    assert help_text(text) == told


def option(kind: str, default: Any, flag: Flag = Flag()) -> Option:  # noqa: B008
    return Option(Parameter("sites", kind, False, default, "which."), flag)


def test_several_values_are_taken_by_naming_an_option_again():
    several = option(signatures.TEXTS, ["z"])
    assert several.default == ["z"]
    assert several.value(["z", "pattern"]) == ["z", "pattern"]
    assert several.value([]) == ["z"]
    assert option(signatures.TEXTS, None).value([]) is None
    assert option(signatures.TEXTS, "z").default == ["z"]


def test_a_value_that_a_text_stands_for_is_read():
    read = option(signatures.TEXTS, None, Flag(read=lambda text: [int(text)]))
    assert read.value("3") == [3]
    assert read.value(None) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ablate", "--kind", "nonsense"], "Unknown kind of ablation 'nonsense'."),
        (["ablate", "--site", "nowhere"], "Unknown site for kind 'skip' 'nowhere'."),
        (["ablate", "--mean-by", "moon"], "Unknown way to take means"),
        (["ablate", "--method", "slow"], "Unknown method 'slow'."),
        (["ablate", "--limit", "0"], "a whole number, such as 100 items, at least 1"),
        (["ablate", "--memory-budget", "1KB"], "Argument 'memory_budget' is 1,000; expected"),
        (["ablate", "--protocol", "leter"], "Did you mean 'letter'?"),
        (["ablate", "--task", "factz"], "Did you mean 'facts'?"),
        (["ablate", "--task", "facts", "--fewshot", "99"], "ask for a number from 0 to"),
        (["ablate", "--task", "missing.jsonl"], "'missing.jsonl' cannot be read"),
        (["lens", "--lens", "tund"], "Did you mean 'tuned'?"),
        (["lens", "--over", "answer"], "Unknown kind of tokens to read"),
        (["lens", "--site", "z"], "Unknown site of the lens 'z'."),
        (["lens", "--tuned", "x"], "leave the tuned lens out"),
        (["lens", "--protocol", "generate"], "so ask for that"),
        (["train-lens", "--kind", "half"], "Unknown kind of tuned lens"),
        (["train-lens", "--steps", "0"], "in 0 steps"),
        (["attribution", "--against", "worst"], "Unknown distractor to compare with"),
        (["attribution", "--protocol", "generate"], "so ask for that"),
        (["heads", "--sequences", "0"], "expected at least 1"),
        (["patch", "--site", "layer"], "Unknown site 'layer'."),
        (["patch", "--position", "end"], "Unknown position 'end'."),
        (["patch", "--direction", "up"], "Unknown direction 'up'."),
        (["path-patch", "--direction", "up"], "Unknown direction 'up'."),
        (["attribution-patch", "--sample", "2"], "expected at least 3"),
        (["similarity", "--protocol", "generate"], "so ask for that"),
        (["remove", "--task", "facts", "--layers", "1", "--by", "luck"], "Unknown way to remove"),
        (["remove", "--task", "facts", "--layers", "1", "--held-out", "1"], "less than 1"),
        (["distill", "s", "--out", "x", "--temperature", "0"], "The temperature is 0;"),
        (["distill", "s", "--out", "x", "--steps", "0"], "cannot be trained in 0 steps"),
        (["distill", "s", "--out", "x", "--divergence", "both"], "Unknown divergence 'both'."),
        (["profile", "--also", "head"], "Did you mean 'heads'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_any_model_is_told_before_one_is_loaded(words, says):
    def load(name: str, **how: Any) -> Any:
        raise AssertionError("a model was loaded")

    command, *options = words
    assert_refused(run(command, "smollm2-135m", *options, load=load), says)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ab", "ablate"),
        ("plan --ana", "--analysis"),
        ("profile --lim", "--limit"),
        ("ablate smol", "smollm2-135m"),
        ("look wired-s", "wired-seq2seq"),
        ("models organism-decoder-2", "organism-decoder-2"),
        ("transplant wired-decoder wired-d", "wired-decoder"),
        ("score mod", "model model.gguf"),
        ("score deeper/", "deeper/adapter"),
        ("score .hid", ".hidden"),
        ("ablate m --task fact", "facts-open-book facts"),
        ("patch m --task kv-w", "kv-words"),
        ("plan m --task organism-f", "organism-facts"),
        ("profile m --task reas", "reasoning"),
        ("profile m --task hf", "hf:"),
        ("profile m --task lm-", "lm-eval:"),
        ("profile m --task bench", "benchmark:"),
        ("lens m --task deeper/m", "deeper/mine.jsonl"),
        ("lens m --task nothing", ""),
        ("lens m --protocol le", "letter"),
    ],
)
def test_a_shell_completes_commands_options_and_names(monkeypatch, tmp_path, typed, completed):
    for folder in ("model", ".hidden", "deeper/adapter", "deeper/$(date)"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("model/config.json", ".hidden/config.json", "deeper/$(date)/config.json",
                 "deeper/adapter/adapter_config.json", "deeper/mine.jsonl", "model.gguf",
                 "model.txt"):  # fmt: skip
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    words = f"layerwise {typed}"
    monkeypatch.setenv("_LAYERWISE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert run().out.split() == completed.split()


def test_a_benchmark_is_completed_behind_its_prefix_and_hidden_files_behind_their_dot(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    Path(".mine.jsonl").touch()
    assert "benchmark:gsm8k:" in complete_task("benchmark:g")
    assert ".mine.jsonl" not in complete_task("")
    assert complete_task(".") == [".mine.jsonl"]


# Whatever is slow to import ends the process.
NOTHING_SLOW = """
import sys
from layerwise import cli
class Refuse:
    def find_spec(self, name, *rest):
        if name in ("torch", "pandas", "matplotlib", "transformers"):
            sys.exit("slow")
sys.meta_path.insert(0, Refuse())
for words in {words}:
    sys.argv = ["layerwise", *words]
    try:
        cli.main()
    except SystemExit as ended:
        sys.stderr.write(f"{{ended}}\\n")
"""


def command_words(name: str) -> list[str]:
    """A command with something for each argument and option that it needs."""
    needed = [each for each in GROUP.commands[name].params if each.required]
    options = [(each.opts[0], "1") for each in needed if each.opts[0].startswith("--")]
    arguments = ["here" for each in needed if not each.opts[0].startswith("--")]
    return [name, *arguments, *chain.from_iterable(options)]


def test_every_command_says_what_it_does_before_anything_slow_is_imported(tmp_path):
    asked = [
        command_words(name) for name in GROUP.commands if name not in ("models", "tasks", "claims")
    ]
    asked += [["models", "here"], ["compare", "here", "there"]]
    asked.remove(["compare"])
    ended = subprocess.run(
        [sys.executable, "-c", NOTHING_SLOW.format(words=asked)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    lines = ended.stderr.splitlines()
    assert set(lines[1::2]) == {"slow"}
    said = dict(zip(map(itemgetter(0), asked), lines[::2], strict=True))
    assert said.pop("profile") == "layerwise: Loading smollm2-135m ..."
    assert said.pop("transplant") == said.pop("distill") == "layerwise: Loading here and here ..."
    assert said.pop("compare") == "layerwise: Comparing here and there ..."
    assert said.pop("verify") == "layerwise: Checking here ..."
    for name in ("report", "show", "figures", "items"):
        assert said.pop(name) == "layerwise: Reading here ..."
    assert set(said.values()) == {"layerwise: Loading here ..."}


def test_completion_is_installed_for_the_shell_that_one_uses(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))
    assert "bash completion installed" in run("--install-completion").out
    assert "layerwise.sh" in (tmp_path / ".bashrc").read_text()


def test_help_has_no_sentence_of_more_than_25_words():
    texts = {
        help_text(text)
        for command in COMMANDS.values()
        for text in (
            command.signature.summary,
            *(one.text for one in command.signature.parameters.values()),
            *(flag.help for flag in command.flags.values()),
        )
    }
    sentences = [each for text in texts for each in re.split(r"(?<=[.;:])\s", text)]
    assert [each for each in sentences if len(each.split()) > 25] == []
