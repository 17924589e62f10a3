"""Check of saved results: the files of a folder against the SHA-256 that their list has of them.

``run.json`` lists the files of a run; a comparison and a series have a list of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerwise.analyses.comparison.runs import FOLDER as COMPARISON
from layerwise.analyses.training.tables import FOLDER as SERIES
from layerwise.errors import UserError, count_noun
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import AnyPath
from layerwise.storage.file_list import NOT_KEPT_FILE, files_without, omitted_files, states
from layerwise.storage.joined_folder import JoinedFolder
from layerwise.storage.parquet import read_table
from layerwise.storage.places import COMPARISON_PAGE, FIGURES, PAGE, SERIES_PAGE, is_folder
from layerwise.storage.provenance import (
    RUN_FILE,
    Facts,
    listed_files,
    parse_facts,
    read_facts,
    read_run_file,
)
from layerwise.storage.written import (
    COMPARED,
    LISTED,
    LOST_WITH_RUN_FILE,
    TABLES_IN_FILES,
    results_without_list,
)

READABLE = "readable"
NOT_LISTED = "not listed"
MISSING = "missing"
LEFT_OUT = "not kept"
_RIGHT = ("ok", LEFT_OUT)
JOINED: tuple[JoinedFolder[Any], ...] = (COMPARISON, SERIES)


@dataclass(frozen=True)
class Verification:
    """Status of each file of a folder since it was written.

    Attributes:
        folder: the folder.
        files: by name ``ok``, ``changed``, ``missing`` or ``not listed``; ``not kept`` where it
            was left out on purpose; ``readable`` where their list is missing.
        problems: what is wrong, in words; nothing if all is as it was written.
    """

    folder: Path
    files: Mapping[str, str]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if all is as it was written, as far as can be told."""
        return not self.problems

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.problems:
            what = "; ".join(self.problems)
            again = "give the command that made the folder again, which makes it again"
            if self.files.get(RUN_FILE) == MISSING:  # a run does not begin among files of another
                again = "delete the folder and give the command that made it again"
            return (
                f"{self.folder} is not as it was written ({what}): expected the files that were "
                f"written there; restore them, or {again}."
            )
        absent = [name for name, state in self.files.items() if state == LEFT_OUT]
        n = sum(state == "ok" for state in self.files.values())
        have = f"{count_noun(n, 'file')} {'has its' if n == 1 else 'have their'} SHA-256"
        if absent:
            have += (
                f"; left out on purpose, as {NOT_KEPT_FILE} says, and not checked: "
                f"{', '.join(absent)}"
            )
        return f"{self.folder} is as it was written: {have}."


@check_arguments()
def verify(folder: AnyPath) -> Verification:
    """Check whether saved results are unchanged since they were written.

    Args:
        folder: of a finished run, of a comparison, of a series, or of a model that
            ``prune_model`` wrote.

    Returns:
        The state of each file. Tables are read, too, and what they say of their run is compared
        with ``run.json``.

    Raises:
        UserError: if the folder does not exist, is none of these, or its run is not finished.
            A folder of results without the file that lists them is one with a problem.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise UserError(f"No folder {folder}: expected a folder of results; check the path.")
    homes = [home for home in (folder / COMPARED, folder)
             if (home / RUN_FILE).exists() or results_without_list(home)]  # fmt: skip
    verified = [_verify_run(home) for home in homes]
    verified += [_verify_joined_runs(folder, joined) for joined in JOINED if joined.is_in(folder)]
    if not verified:
        raise UserError(
            f"No {RUN_FILE} or {COMPARISON.list_file} in {folder}: expected the folder of a "
            "finished run, a comparison, a series or a pruned model; check the path."
        )
    return verified[0] if len(verified) == 1 else _merge_verifications(folder, verified)


def _merge_verifications(folder: Path, several: Sequence[Verification]) -> Verification:
    """Merge the verifications of a folder's lists; a file is listed if any of them has it."""
    known = {name for one in several for name, state in one.files.items() if state != NOT_LISTED}
    files: dict[str, str] = {}
    for one in several:
        inside = "" if one.folder == folder else f"{one.folder.name}/"
        for name, state in one.files.items():
            if state != NOT_LISTED or name not in known:
                files[f"{inside}{name}"] = state
    problems = tuple(problem for part in several for problem in part.problems)
    return Verification(folder, files, problems)


def _verify_run(folder: Path) -> Verification:
    """Verify the files that ``run.json`` lists."""
    if results_without_list(folder):
        missing = f"{RUN_FILE} is missing: {LOST_WITH_RUN_FILE}"
        return _without_list(folder, RUN_FILE, LISTED, missing)
    try:
        facts = read_facts(folder)
    except UserError as error:
        if not _is_damaged(folder):
            raise
        return Verification(folder, {RUN_FILE: "changed"}, (str(error),))
    return _verify_files(folder, RUN_FILE, listed_files(folder) or {}, LISTED, facts)


def _is_damaged(folder: Path) -> bool:
    """True if ``run.json`` is damaged, and not merely that of a run that goes on."""
    try:
        return read_run_file(folder).get("finished", True) is not False
    except UserError:
        return True


def _verify_joined_runs(folder: Path, joined: JoinedFolder[Any]) -> Verification:
    """Verify what joins saved runs: a comparison, or a series of checkpoints."""
    own = joined.list_file
    if not (folder / own).exists():
        return _without_list(folder, own, joined.table_files, f"{own} is missing")
    try:
        entries = joined.read_list(folder)
    except UserError as error:
        return Verification(folder, {own: "changed"}, (str(error),))
    return _verify_files(folder, own, files_without(entries, own), joined.table_files, None)


def _without_list(folder: Path, own: str, known: Sequence[str], missing: str) -> Verification:
    """Verify results whose list is missing: only if their tables can be read."""
    there = [name for name in known if (folder / name).exists()]
    states = {own: MISSING} | dict.fromkeys(there, READABLE)
    problems = [missing]
    for name in there:
        problems_of_file = list(_table_problems(folder / name, None))
        states[name] = "changed" if problems_of_file else READABLE
        problems += problems_of_file
    return Verification(folder, states, tuple(problems))


def _verify_files(
    folder: Path, own: str, files: Mapping[str, str], known: Sequence[str], facts: Facts | None
) -> Verification:
    """Verify the listed ``files`` of a folder, and name those of ``known`` that are not listed."""
    file_states: dict[str, str] = {own: "ok"}
    file_states |= dict(states(folder, files))
    there = [name for name in known if (folder / name).exists() and name not in file_states]
    file_states |= dict.fromkeys(there, NOT_LISTED)
    problems = [f"{name} is {state}" for name, state in file_states.items() if state not in _RIGHT]
    problems += [
        f"{NOT_KEPT_FILE} names {name}, which {own} does not list"
        for name in omitted_files(folder)
        if name not in files
    ]
    whole = [name for name in known if file_states.get(name) == "ok"]
    for name in whole:
        for problem in _table_problems(folder / name, facts):
            problems.append(problem)
            file_states[name] = "changed"
    if not [name for name in file_states if name in TABLES_IN_FILES]:
        problems.append("no table is there")
    others = {n: NOT_LISTED for n in _other_files(folder) if n not in file_states}
    return Verification(folder, file_states | others, tuple(problems))


def _other_files(folder: Path) -> list[str]:
    """Files that are not results; pages and figures, which are drawn from tables, are left out."""
    drawn = (PAGE, COMPARISON_PAGE, SERIES_PAGE, FIGURES, NOT_KEPT_FILE)
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in drawn and not (path / RUN_FILE).exists()  # runs of checkpoints
    )


def _table_problems(path: Path, facts: Facts | None) -> Iterator[str]:
    """Problems of a table: unreadable, or tasks or layers that its run does not have."""
    if path.name not in TABLES_IN_FILES:
        return
    try:
        table, saved = read_table(path, TABLES_IN_FILES[path.name])
    except UserError as error:
        yield str(error).partition(": expected")[0]
        return
    if facts is None:
        return
    if saved is not None:
        yield from _differences(path, saved, facts)
    tasks = {task.name for task in facts.tasks}
    named: set[Any] = set(table["task"].dropna()) if "task" in table.columns else set()
    if named - tasks:
        yield f"{path.name} has tasks that {RUN_FILE} does not: {', '.join(sorted(named - tasks))}"
    layers = table["layer"].dropna() if "layer" in table.columns else []
    if len(layers) and not -1 <= min(layers) <= max(layers) < facts.model.n_layers + 1:
        yield f"{path.name} has layers that the model in {RUN_FILE} does not"


def _differences(path: Path, saved: bytes, facts: Facts) -> Iterator[str]:
    """Statements of a table on its run that ``run.json`` does not make."""
    try:
        part = parse_facts(saved, path)
    except UserError as error:
        yield str(error).partition(": expected")[0]
        return
    if part.model.hash != facts.model.hash:
        yield f"{path.name} and {RUN_FILE} are of different models"
    hashes = {task.name: task.hash for task in facts.tasks}
    if any(hashes.get(task.name) != task.hash for task in part.tasks):
        yield f"{path.name} and {RUN_FILE} are of different items"
