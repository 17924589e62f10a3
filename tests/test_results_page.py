"""The list of tables and columns in docs/results.md is that of the schemas."""

import runpy
from pathlib import Path

from layerwise.storage.schemas import SCHEMAS, SHARED, TABLES, meaning

SCRIPT = Path(__file__).parents[1] / "docs" / "make_results.py"


def test_the_page_is_what_make_docs_writes():
    made = runpy.run_path(str(SCRIPT))
    assert made["PAGE"].read_text("utf-8") == made["page"]()


def test_every_description_is_of_a_column():
    used = {meaning(table, c)[:2] for table, columns in SCHEMAS.items() for c in columns.names}
    own = {"": SHARED, **TABLES}
    written = {(table, columns) for table, texts in own.items() for columns in texts}
    assert {key for key in written if key[1] not in {"fold", "rows", "like", "columns"}} == used


def test_a_bound_is_described_with_its_value_unless_by_itself():
    assert meaning("effects", "nats_low").columns == "nats"
    assert meaning("effects", "acc_diff_run_high").columns == "acc_diff"
    assert meaning("early_exit_layers", "share_low").table == "effects"
    assert meaning("training_onsets", "low").table == "training_onsets"
