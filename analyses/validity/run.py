"""Make the saved results and figures of this study again: ``python analyses/validity/run.py``.

Each part is a module with a ``measure`` that gives a table; add a method by adding one.
"""

from __future__ import annotations

from pathlib import Path

import nothing
import planted
import shown

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure all parts, save their tables, and draw them."""
    RESULTS.mkdir(exist_ok=True)
    for name, part in (("planted", planted), ("nothing", nothing)):
        table = part.measure()
        table.to_parquet(RESULTS / f"{name}.parquet", index=False)
        print(part.told(table).to_string(index=False))
    shown.draw(RESULTS)


if __name__ == "__main__":
    main()
