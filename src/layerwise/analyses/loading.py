"""Load all results of a run's folder, whichever analyses made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerwise.errors import DamagedResultsError, UserError
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import AnyPath
from layerwise.storage.base import Result
from layerwise.storage.estimates import ESTIMATES, in_files, table_from_estimates
from layerwise.storage.parquet import AGAIN, read_table
from layerwise.storage.places import is_folder
from layerwise.storage.provenance import listed_files
from layerwise.storage.written import refuse_without_list

from .emergence.result import EmergenceResult
from .measurements import curves_in_words, with_curves
from .registry import RESULTS
from .restoring import load_kinds


@check_arguments()
def load(folder: AnyPath) -> list[Result]:
    """Load all results of a saved run, whichever analyses made them.

    Args:
        folder: the folder that the run was written to.

    Returns:
        The results, in the order of the analyses; a run of one analysis gives a list of one.
        Comparisons and series of checkpoints have a ``load`` of their own type
        (``Comparison.load``).

    Raises:
        UserError: if the folder does not exist, holds no result or an unfinished run, or results
            and no ``run.json``; if a file was changed since it was written, or a table is missing,
            and does not follow from others.

    Warns:
        MadeAgainWarning: if tables were missing or changed, and were made again from others.
        DamagedFileWarning: if another file of the run is missing, on which no result rests that
            is read here.

    Examples:
        >>> import tempfile
        >>> import layerwise as lw
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = lw.load_model("wired-decoder")
        ...     saved = lw.head_scores(model, sequences=2, progress=False, out=folder)
        ...     (result,) = lw.load(folder)
        >>> len(result.to_pandas()) == len(saved.to_pandas())
        True
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise UserError(f"No folder {folder}: expected the folder of a run; check the path.")
    refuse_without_list(folder)
    results = load_kinds(folder, RESULTS, rebuild_depths)
    if not results:
        *files, last = (f"{_marks(kind)[0]}.parquet" for kind in RESULTS)
        raise DamagedResultsError(
            f"No results in {folder}: expected {', '.join(files)} or {last}; check the path, or "
            "run an analysis with this folder."
        )
    return results


def _marks(kind: type[Result]) -> list[str]:
    """Files by which a result is known to be in a folder; estimates are of many."""
    return [name for name in in_files(kind.tables) if name != ESTIMATES]


def rebuild_depths(folder: Path, results: Sequence[Result], lost: Sequence[str]) -> None:
    """Make lost depths anew, from as many draws as before where that can still be read."""
    from .emergence.api import emergence

    marks = {f"{name}.parquet" for name in in_files(EmergenceResult.tables)}
    # Estimates without what was left out are those of other analyses.
    before = {*lost, *(listed_files(folder) or {})}
    if not marks & set(lost) or not marks <= before:
        return
    used = with_curves(results)
    if not used:
        raise DamagedResultsError(
            f"Depths in {folder} are missing or changed, and nothing is there to join them from: "
            f"expected an {curves_in_words()}; {AGAIN}."
        )
    draws = _draws(folder)
    seed = used[0].facts.seed
    again = emergence(used, seed=seed, n_resamples=draws) if draws else emergence(used, seed=seed)
    again.save(folder)


def _draws(folder: Path) -> int | None:
    """Number of draws that the table of depths was made from; None if it cannot be read."""
    try:
        digest = (listed_files(folder) or {}).get(f"{ESTIMATES}.parquet")
        estimates, _ = read_table(folder / f"{ESTIMATES}.parquet", ESTIMATES, digest)
    except UserError:
        return None
    table = table_from_estimates(estimates, "emergence")
    return int(table.iloc[0]["n_resamples"]) if len(table) else None
