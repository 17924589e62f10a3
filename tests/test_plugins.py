"""Analyses of other packages: found by their entry points, used as any other, left out if broken.

Each is installed as pip would, into a folder on the path of another process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from layerwise.analyses.ablation.api import ablate
from layerwise.ground.analysis_folders import GROUP
from layerwise.models.organisms.layout import WiredLayout
from layerwise.results import load
from layerwise.storage.schemas import OWNERS
from tests.planted import small_model, small_task

SOURCE = Path(__file__).with_name("plugin")


def install(site: Path, package: str, *points: str, files: dict[str, str] | None = None) -> None:
    """A distribution of one package with entry points, as pip leaves it in a folder of packages."""
    if files is None:
        shutil.copytree(SOURCE / package, site / package)
    for name, text in (files or {}).items():
        (site / package).mkdir(parents=True, exist_ok=True)
        (site / package / name).write_text(text)
    described = site / f"{package}-0.1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (described / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points, ""]))


def run(site: Path, code: str) -> tuple[Any, str]:
    """Run code that prints JSON in a new process; its value, and its warnings."""
    own = [str(site), *filter(None, sys.path)]
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(own)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1]), ended.stderr


USED = """
import json
import layerwise as lw
from layerwise_certainty import certainty
from layerwise.analyses.registry import ANALYSES, EXTRAS, PLANS
from layerwise.report.html import findings
from tests.pages import blank_pages

blank = blank_pages()  # pictures are drawn in other tests
blank.__enter__()
out = {out!r}
model = lw.load_model("wired-decoder")
found = certainty(
    model, "wired-lookup", "continuation", limit=8, out=out, progress=False
)
(loaded,) = lw.load(out)
assert type(loaded).__name__ == "CertaintyResult", type(loaded)
assert loaded.layers().equals(found.layers()) and loaded.certainty.equals(found.certainty)
page = lw.report([loaded]).save(out + "/report.html")
verified = lw.verify(out)
profiled = lw.profile(
    model, "wired-lookup", "continuation", limit=8, also="certainty", out=out + "2",
    progress=False, pairs=2,
)
plan = lw.planning.plan_run(model, "wired-lookup", analysis="certainty", limit=8)
print(json.dumps(dict(
    analyses=[each.name for each in ANALYSES], extra=EXTRAS["certainty"].words,
    planned="certainty" in str(plan), claims=[claim.short for claim in findings([loaded])],
    quantities=sorted(set(loaded.estimates()["quantity"])), verified=str(verified),
    again=[type(one).__name__ for one in lw.load(out + "2")],
)))
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    install(site, "layerwise_certainty", "certainty = layerwise_certainty")
    out = site.parent / f"{site.name}-run"
    told, warned = run(site, USED.format(out=str(out)))
    return told, warned, out


@pytest.mark.long
def test_a_plugin_is_an_analysis_as_any_other(used):
    told, warned, out = used
    assert "BrokenPlugin" not in warned
    assert told["analyses"][-3:] == ["certainty", "emergence", "replication"]
    assert told["extra"] == "how sure the lens is after each layer"
    assert told["planned"]
    (claim,) = told["claims"]
    assert claim.startswith("In wired-lookup, the lens is surest after layer")
    assert told["quantities"] == ["certainty"]
    assert "CertaintyResult" in told["again"]
    assert claim in (out / "report.html").read_text("utf-8")
    for folder in (out, Path(f"{out}2")):
        listed = json.loads((folder / "run.json").read_text("utf-8"))["files"]
        assert {"certainty.parquet", "estimates.parquet"} <= set(listed)


def blocks(page: str, language: str) -> list[str]:
    """Code of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_page_for_contributors_leads_to_an_analysis(tmp_path):
    page = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    (tmp_path / "tests").symlink_to(SOURCE.parent)
    (copy,) = (block for block in blocks(page, "") if block.startswith("mkdir mine"))
    subprocess.run(["bash", "-ec", copy], check=True, cwd=tmp_path)
    mine = tmp_path / "mine"
    (project,) = map(tomllib.loads, blocks(page, "toml"))
    (points,) = project["project"]["entry-points"].values()
    assert list(project["project"]["entry-points"]) == [GROUP]
    (package,) = project["tool"]["setuptools"]["packages"]
    assert project["tool"]["setuptools"]["package-data"] == {package: ["tables.toml"]}
    assert {path.suffix for path in (mine / package).iterdir()} - {""} == {".py", ".toml"}
    install(mine, package, *(f"{name} = {value}" for name, value in points.items()), files={})
    (code,) = blocks(page, "python")
    told, warned = run(
        mine, f"import os; os.chdir({str(mine)!r})\n{code}\nprint(len(result.layers()))"
    )
    assert told == 11
    assert "BrokenPlugin" not in warned
    assert (mine / "runs" / "divergence" / "divergence.parquet").is_file()


@pytest.mark.long
def test_a_run_is_read_without_the_plugin_that_added_to_it(used):
    assert "certainty" not in OWNERS
    names = [type(result).__name__ for result in load(f"{used[2]}2")]
    assert names == [name for name in used[0]["again"] if name != "CertaintyResult"]


PLAIN = """
from layerwise.analyses.contract import Analysis
from layerwise.storage.base import Result
class Nothing(Result):
    tables = ("NAME",)
def broken(*given):
    raise RuntimeError("no page today")
ANALYSIS = Analysis("NAME", Nothing, findings=broken, sections=broken)
"""
COLUMNS = '[{name}]\nrows = "One row."\ncolumns = "{columns}"\n'
LAID_OUT = """
[only.estimates]
where = "task"
rows = [{ quantity = "accuracy", values = "" }]
"""


def own(name: str, columns: str = "task", analysis: str = PLAIN) -> dict[str, str]:
    """The files of a plugin with one table."""
    tables = COLUMNS.format(name=name, columns=columns)
    return {"__init__.py": "", "analysis.py": analysis.replace("NAME", name), "tables.toml": tables}


BROKEN = {
    "imports": (own("imports", analysis="import not_there"), "No module named 'not_there'"),
    "ends": (own("ends", analysis="raise SystemExit(3)"), "SystemExit"),
    "nothing": (own("nothing", analysis="ANALYSIS = None"), "must be an Analysis"),
    "untold": (own("untold", columns="task fuzz"), "unknown name 'fuzz'"),
    "typed": (own("typed", columns="task:flot"), "unknown name 'flot'"),
    "foreign": (own("foreign") | {"tables.toml": COLUMNS.format(name="lens", columns="task")},
                "the name of table 'lens' must be new"),
    "torn": (own("torn") | {"tables.toml": "[torn"}, "TOMLDecodeError"),
    "bare": ({"__init__.py": "", "analysis.py": ""}, "No such file"),
    "speaking": (own("speaking") | {"tables.toml": '[quantities]\naccuracy = "nats: mine"\n'},
                 "quantity 'accuracy' is known already"),
    "lost": (own("lost") | {"tables.toml": ""}, "no table 'lost'"),
    "only": (own("only") | {"tables.toml": COLUMNS.format(name="only", columns="task") + LAID_OUT},
             "must not be of estimates"),
    "vague": (own("vague") | {"tables.toml": COLUMNS.format(name="vague", columns="task layer")
                              + LAID_OUT.replace("only", "vague")}, "column 'layer'"),
    "late": (own("late"), "no page today"),
    "heads": (own("heads"), "its name must be"),
}  # fmt: skip
LOADED = """
import json
from layerwise.analyses.registry import ANALYSES
from layerwise.results import load
from layerwise.storage.schemas import SCHEMAS
from layerwise.report import report
from tests.pages import blank_pages
results = load({out!r})
with blank_pages():
    text = report(results).html
print(json.dumps(dict(analyses=[each.name for each in ANALYSES], tables=list(SCHEMAS),
                      results=len(results), page=len(text))))
"""


def test_broken_plugins_are_left_out_with_a_sentence_each_and_all_else_goes_on(tmp_path):
    out = tmp_path / "run"
    asked = small_task("retrieval"), "continuation"
    ablate(small_model(WiredLayout()), *asked, layers=[0], out=out, progress=False)
    for name, (files, _) in BROKEN.items():
        install(tmp_path, f"plugin_{name}", f"{name} = plugin_{name}", files=files)
    install(tmp_path, "gone", "gone = not_installed.anywhere", files={"__init__.py": ""})
    told, warned = run(tmp_path, LOADED.format(out=str(out)))
    left = [line for line in warned.splitlines() if "BrokenPluginWarning" in line]
    assert len(left) == len(BROKEN) + 1, warned
    for name, (_, reason) in BROKEN.items():
        (sentence,) = [
            line for line in left if f"The analysis {name!r} of plugin_{name} 0.1" in line
        ]
        assert reason in sentence, sentence
        assert sentence.endswith("update or uninstall that package.")
    (sentence,) = [line for line in left if "'gone'" in line]
    assert "No package named 'not_installed'" in sentence
    names = [name for name in told["analyses"] if name in BROKEN]
    assert names == ["heads", "late"]  # the package's own; and what broke after it was loaded
    assert told["results"] == len(load(out)) > 0
    assert set(OWNERS) <= set(told["tables"])
    assert not {"foreign", "torn", "untold", "typed"} & set(told["tables"])


def test_help_and_import_read_no_tables_and_look_for_no_plugins(tmp_path):
    install(tmp_path, "plugin_imports", "imports = plugin_imports", files=BROKEN["imports"][0])
    code = """
import io, json, sys
from contextlib import redirect_stdout
import layerwise
from layerwise import cli
sys.argv = ["layerwise", "--help"]
with redirect_stdout(io.StringIO()):
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code
print(json.dumps([name for name in sys.modules if name == "layerwise.storage.schemas"]))
"""
    loaded, warned = run(tmp_path, code)
    assert loaded == []
    assert not warned


COMMAND = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from layerwise import cli
ended = dict()
for words in {words!r}:
    sys.argv, out, err = ["layerwise", *words], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    ended[" ".join(words[:2])] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(ended))
"""


def with_commands(commands: str, api: str = "") -> dict[str, str]:
    return {"__init__.py": f"COMMANDS = {commands}\n", "api.py": api}


BAD_COMMANDS = {
    "clash": (with_commands("{'ablate': 'api:run'}"), "'ablate' is the name of another command"),
    "double": (with_commands("{'certainty': 'api:run'}"),
               "'certainty' is the name of another command"),
    "undecorated": (with_commands("{'bare': 'api:run'}", "def run(model): ..."),
                    "api:run must have arguments and be decorated with check_arguments"),
    "absent": (with_commands("{'gone': 'api:run'}"), "has no attribute 'run'"),
    "formless": (with_commands("3"), "'int' object has no attribute 'items'"),
    "importing": ({"__init__.py": "import not_there"}, "No module named 'not_there'"),
    "ending": ({"__init__.py": "raise SystemExit(3)"}, "SystemExit"),
}  # fmt: skip


def test_a_command_of_a_plugin_runs_and_those_that_are_broken_are_left_out(tmp_path):
    install(tmp_path, "layerwise_certainty", "certainty = layerwise_certainty")
    for name, (files, _) in BAD_COMMANDS.items():
        whole = own(name) | files
        install(tmp_path, f"plugin_{name}", f"{name} = plugin_{name}", files=whole)
    out = str(tmp_path / "run")
    once = ["certainty", "wired-decoder", "--task", "wired-lookup", "--limit", "2", "--out", out]
    words = [["ablate", "--help"], ["certainty", "--help"], once, ["certain"], ["certainty"]]
    told, _ = run(tmp_path, COMMAND.format(words=words))
    code, text, warned = told["ablate --help"]
    assert (code, warned) == (0, "")  # no plugin is imported for a command of layerwise
    assert "--kind" in text
    code, text, warned = told["certainty --help"]
    assert code == 0
    assert "Measure how sure the logit lens is" in text
    assert "--protocol" in text
    sentences = warned.splitlines()
    assert len(sentences) == len(BAD_COMMANDS), warned
    for name, (_, reason) in BAD_COMMANDS.items():
        (sentence,) = [each for each in sentences if f"The analysis {name!r} of" in each]
        assert reason in sentence
        assert sentence.endswith("update or uninstall that package.")
    code, text, warned = told["certainty wired-decoder"]
    assert code == 0, warned
    assert (Path(out) / "certainty.parquet").is_file()
    assert "left out" not in warned  # each is said once
    code, _, warned = told["certain"]
    assert code == 2
    assert "No such command 'certain'" in warned
    assert told["certainty"][0] == 2  # no model
