"""The public names, and that asking for them costs no more than it must."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import layerwise as lw
from layerwise import results
from layerwise.cli.commands import COMMANDS
from layerwise.ground.analysis_folders import OWN
from tests import typed
from tests.forking import exit_code, fork_work, needs_fork
from tests.models.real import smollm2

NAMES = [
    "AblationResult",
    "AttributionPatchingResult",
    "AttributionResult",
    "Comparison",
    "DecisionsResult",
    "DistillationResult",
    "EarlyExitResult",
    "EmergenceResult",
    "HeadSetsResult",
    "HeadsResult",
    "InteractionsResult",
    "Item",
    "LensResult",
    "LogitLens",
    "PatchingResult",
    "PathPatchingResult",
    "Profile",
    "PruningResult",
    "RayExecutor",
    "RemovalResult",
    "ReplicationResult",
    "Report",
    "SimilarityResult",
    "Task",
    "TextLossResult",
    "TrainingSeries",
    "TransplantResult",
    "UserError",
    "Verification",
    "ablate",
    "attention_grid",
    "attribute",
    "attribute_patches",
    "attribution",
    "compare",
    "compare_logs",
    "compare_series",
    "decide",
    "distill",
    "early_exit",
    "emergence",
    "figures_for_paper",
    "head_scores",
    "head_sets",
    "heal",
    "interactions",
    "intervene",
    "items",
    "known_models",
    "lens_grid",
    "load",
    "load_model",
    "load_task",
    "logit_lens",
    "patch",
    "patch_activations",
    "patch_grid",
    "patch_paths",
    "profile",
    "profile_training",
    "prune_model",
    "removal_order",
    "replicate",
    "report",
    "report_from_folders",
    "score",
    "similarity",
    "skip_grid",
    "task_from",
    "task_from_prompts",
    "task_names",
    "text_loss",
    "train_lens",
    "transplant",
    "verify",
]
PARTS = ["errors", "models", "planning", "results", "stats", "sweep", "tasks"]
HEAVY = (
    "torch", "transformers", "transformer_lens", "pandas", "scipy", "sklearn",
    "matplotlib", "seaborn",
)  # fmt: skip


def test_the_public_names_are_these():
    assert lw.__all__ == NAMES
    assert set(dir(lw)) == {*NAMES, *PARTS}


def test_the_version_is_that_of_the_installed_package():
    assert lw.__version__ == metadata.version("layerwise")


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_described(name):
    assert getattr(lw, name).__doc__


def test_editors_know_every_public_name():
    """They read imports for types, which run never; so each name stands there once more."""
    tree = ast.parse(Path(lw.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    known = {each.asname for node in block.body if isinstance(node, ast.ImportFrom)
             for each in node.names}  # fmt: skip
    assert known == {*lw.__all__, *PARTS} - {"UserError", "errors"}


def test_results_have_the_type_of_every_analysis():
    types = {kind.__name__: kind for kind in results.RESULTS}
    assert {name: getattr(results, name) for name in types} == types


def commands_of(module: str) -> dict[str, str]:
    return getattr(importlib.import_module(module), "COMMANDS", {})


def test_commands_are_those_that_analyses_name():
    named = {
        command: f"{folder.module}.{target}"
        for folder in OWN
        for command, target in getattr(
            importlib.import_module(folder.module), "COMMANDS", {}
        ).items()
    }
    targets = {name: command.target for name, command in COMMANDS.items()}
    assert named == {name: t for name, t in targets.items() if t.startswith("layerwise.analyses.")}


def test_unknown_names_are_told():
    with pytest.raises(AttributeError, match="ablat"):
        _ = lw.ablat


ROOT = Path(__file__).parents[1]
# Names of values in examples, and of files, are no names of the package's.
_FOLDERS = "ground|models|presentation|runs|stats|storage|sweep|tasks"
_FILE = r"(?!\.(?:csv|html|jsonl?|md|parquet|py|toml)\b)"
CODE = re.compile(rf"(?<![\w./-])((?:layerwise|lw|{_FOLDERS})(?:{_FILE}\.[A-Za-z_]\w*)+)(?![\w/])")
METADATA = "layerwise.facts"  # a key of a file
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/**/*.md"))]


def named_code(page: str) -> list[str]:
    """Names of the package in a page's code, in spans and in blocks."""
    spans = re.findall(r"```.*?```|`[^`\n]+`|^ {4}\S[^\n]*", page, re.DOTALL | re.MULTILINE)
    return [name for span in spans for name in CODE.findall(span) if name != METADATA]


def resolve_name(name: str) -> object:
    """A module of the package, or what one has, by its name."""
    parts = name.removeprefix("lw.").removeprefix("layerwise.").split(".")
    value: object = lw
    for n, part in enumerate(parts):
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(".".join(["layerwise", *parts[: n + 1]]))
    return value


def test_code_that_pages_name_is_seen():
    page = "`stats.holm(x)`, `lw.ablate` and `runs.md`\n\n    layerwise.a.b\n\nsweep.none\n"
    assert named_code(page) == ["stats.holm", "lw.ablate", "layerwise.a.b"]
    assert resolve_name("layerwise.stats.signals.power.least_change")
    with pytest.raises(ImportError):
        resolve_name("stats.least.least_change")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_of_the_package_is_there(page):
    for name in named_code(page.read_text("utf-8")):
        assert resolve_name(name) is not None, name


def in_a_new_process(code: str) -> object:
    ended = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code],
        capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_documented_parts_are_reached_from_the_package_and_nothing_heavy_is_loaded_for_them():
    code = f"""
import json, sys
import layerwise as lw
assert [model.name for model in lw.models.known_models()]
assert "numpy" not in sys.modules
assert lw.models.organisms.ORGANISM and lw.tasks.task_names() and lw.sweep.LogLikelihood
print(json.dumps([m for m in {HEAVY} if m in sys.modules]))
"""
    assert in_a_new_process(code) == []
    assert [getattr(lw, part).__name__ for part in PARTS] == [f"layerwise.{p}" for p in PARTS]


def test_importing_light_modules_loads_nothing_heavy():
    light = "layerwise, layerwise.cli, layerwise.errors, layerwise.tasks, layerwise.sweep"
    loaded = in_a_new_process(
        f"import json, sys, {light}; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    assert loaded == []


def test_listing_tasks_and_models_loads_nothing_heavy():
    code = f"""
import io, json, sys
from contextlib import redirect_stdout
from layerwise import cli
for command in (["tasks"], ["models"], ["profile", "--help"]):
    sys.argv = ["layerwise", *command]
    with redirect_stdout(io.StringIO()) as said:
        try:
            cli.main()
        except SystemExit as ended:
            assert ended.code == 0, ended
    assert said.getvalue()
print(json.dumps([m for m in {HEAVY} if m in sys.modules]))
"""
    assert in_a_new_process(code) == []


@needs_fork
def test_the_report_can_be_called_once_its_folder_is_imported(tmp_path):
    """Importing a folder puts it in the function's place, which must not matter."""
    path = tmp_path / "told.json"

    def work() -> int:
        # Whoever checks types knows the old classes by the names of the new ones.
        sys.meta_path[:] = [one for one in sys.meta_path if type(one).__module__ != typed.__name__]
        for name in [name for name in sys.modules if name.split(".")[0] == "layerwise"]:
            del sys.modules[name]
        path.write_text(json.dumps(called_before_and_after_importing_submodules()))
        return 0

    assert exit_code(fork_work(work)) == 0
    before, refusals, after = json.loads(path.read_text())
    assert before == [True, True, True]
    assert refusals[0].startswith("There is nothing to report")
    assert refusals[1].startswith("Emergence has nothing to join")
    assert after is True


def called_before_and_after_importing_submodules() -> list[object]:
    package = importlib.import_module("layerwise")
    before = [callable(getattr(package, name)) for name in ("report", "logit_lens", "emergence")]
    for name in ("report.figures", "analyses.logit_lens.api", "analyses.emergence.api"):
        importlib.import_module(f"layerwise.{name}")
    refusals = []
    for call in (package.report, package.emergence):
        try:
            call([])
        except package.UserError as error:
            refusals.append(str(error))
    return [before, refusals, callable(package.logit_lens)]


@pytest.mark.parametrize("name", lw.__all__)
def test_docstrings_begin_with_what_is_computed_in_plain_words(name):
    (first, *_) = inspect.getdoc(getattr(lw, name)).split("\n\n")
    assert len(first.split()) <= 20
    assert not re.match(r"(What|Which|Whether|Where|When|How|In which|At what)\b", first)
    assert not re.search(r"\b(told|asked|ask|say|says|stand in for|spare)\b", first)


@pytest.mark.parametrize("folder", ["src", "tests", "analyses", "benchmarks", "docs"])
def test_no_docstring_begins_with_a_question(folder):
    question = re.compile(
        r'^\s*"""((?:What|How|Whether|Where|Which|Who|When|Why|That|Does|Is|Are|Can) .*)', re.M
    )
    found = [
        (path.name, match)
        for path in sorted((Path(__file__).parents[1] / folder).rglob("*.py"))
        for match in question.findall(path.read_text("utf-8"))
    ]
    assert found == []


RUNS = 2
FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def startup():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(FOLDER)
        yield importlib.import_module("startup")


def test_heavy_modules_are_seen(startup):
    assert "pandas" in startup.heavy_modules("import pandas")


@pytest.mark.parametrize("name", ["IMPORT", "HELP", "COMPLETION"])
def test_start_is_quick(startup, name):
    start = getattr(startup, name)
    # Processor time, which other programs on the machine change little; twice the goal, as they
    # do change it.
    assert startup.best_cost(start, RUNS).cpu_seconds < 2 * start.limit


@pytest.mark.long
@pytest.mark.smollm2
def test_cached_model_is_ready_soon_after_its_libraries(startup):
    """Importing what it is made of takes two thirds of the time, and sets the scale."""
    smollm2()  # fills the cache where it is empty
    libraries, model = startup.share_of_libraries()
    assert model < 2.5 * libraries
