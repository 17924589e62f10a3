"""Write what pages of the docs take from every tables.toml: references and a table of analyses."""

import re
import tomllib
from pathlib import Path

import pyarrow as pa

from layerwise.analyses.plugins import own_analyses
from layerwise.ground.analysis_folders import JOINING, MEASURING, OWN
from layerwise.storage.schemas import (
    LAYOUTS,
    QUANTITIES,
    SCHEMAS,
    SHARED,
    TABLES,
    TABLES_FILE,
    column_description,
    parse_field,
)

PAGE = Path(__file__).with_name("results.md")
FRAMES = Path(__file__).with_name("frames.md")
MARKER = "<!-- From here on made by `make docs` from every tables.toml of the package. -->\n"
METHODS = Path(__file__).with_name("methods.md")
CLAIMS = Path(__file__).with_name("claims.md")
MADE = re.compile(
    r"(<!-- Made by `make docs` from (.+?)\. -->\n\n).*?(\n\n<!-- Until here\. -->)", re.DOTALL
)
HEAD = "| column | type | meaning |\n|---|---|---|"


def code(columns: list[str]) -> str:
    """Columns as code, with commas."""
    return ", ".join(f"`{column}`" for column in columns)


def type_name(kind: pa.DataType) -> str:
    """A type as pandas reads it."""
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    return {"int64": "Int64", "double": "float64"}.get(str(kind), str(kind))


def types(fields: list[pa.Field], kinds: bool) -> str:
    """Types of columns, and if they may be null."""
    null = [field.name for field in fields if field.nullable]
    parts = list(dict.fromkeys(type_name(field.type) for field in fields)) if kinds else []
    if null:
        parts.append("null" if len(null) == len(fields) else f"null: {code(null)}")
    return ", ".join(parts)


def rows(table: str) -> list[str]:
    """A table's rows: what it is of, columns that are described elsewhere, and its own."""
    described: dict[tuple[str, str], list[str]] = {}
    for column in SCHEMAS[table].names:
        source = column_description(table, column)
        text = source.text if source.table == table else f"as in {place(source.table)}"
        key = (source.table, text if source.table else "as in many tables")
        described.setdefault(key, []).append(column)
    lines = [f"| **{place(table)}** | | {TABLES[table]['rows']} |"]
    for (source, text), columns in sorted(described.items(), key=lambda item: item[0][0] == table):
        fields = [SCHEMAS[table].field(column) for column in columns]
        lines.append(f"| {code(columns)} | {types(fields, kinds=source == table)} | {text} |")
    return lines


def shared_rows() -> list[str]:
    """The columns that many tables have."""
    together = {columns: [parse_field(name) for name in columns.split()] for columns in SHARED}
    return [
        f"| {code(columns.split())} | {types(fields, kinds=True)} | {SHARED[columns]} |"
        for columns, fields in together.items()
    ]


def place(table: str) -> str:
    """Place of a table: in a file, or given by a result."""
    return f"`{table}`" if table in LAYOUTS else f"`{table}.parquet`"


def reference(frames: bool) -> str:
    """Every table in a file, or every one that results give, with its columns, by topic."""
    folds = {"in many tables": shared_rows()}
    fold = ""
    for name, table in TABLES.items():
        fold = table.get("fold", fold)
        if (name in LAYOUTS) == frames:
            folds.setdefault(fold, []).extend(rows(name))
    return "\n\n".join(
        "\n".join([f"<details><summary>Columns: {fold}</summary>\n", HEAD, *lines, "\n</details>"])
        for fold, lines in folds.items()
    )


def quantities() -> str:
    """The vocabulary of the long table."""
    lines = ["### Quantities", "", "| quantity | unit | meaning |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {unit or ''} | {text} |"
        for name, (unit, text) in sorted(QUANTITIES.items(), key=lambda item: item[0].casefold())
    ]
    return "\n".join(lines)


def page() -> str:
    """The page: what is written by hand, and the reference."""
    written = PAGE.read_text("utf-8").split(MARKER)[0]
    return f"{written}{MARKER}\n{reference(frames=False)}\n\n{quantities()}\n"


def frames_page() -> str:
    """The page of the tables that results give."""
    return f"{FRAMES.read_text('utf-8').split(MARKER)[0]}{MARKER}\n{reference(frames=True)}\n"


def analyses() -> str:
    """Every analysis with what it asks, and the page that has more."""
    rows = [tomllib.loads(folder.path(TABLES_FILE).read_text("utf-8"))["docs"] for folder in OWN]
    lines = [f"| {row['called']} | {row['asks']} | {row['page']} |" for row in rows]
    return "\n".join(["| analysis | it asks | page |", "|---|---|---|", *lines])


def extras() -> str:
    """Additions of a profile to its main analyses, by the name that ``also`` takes."""
    found = [extra for one in own_analyses((*MEASURING, *JOINING)) for extra in one.extras]
    return "\n".join(
        f"- `{extra.name}`: {extra.words}{'' if extra.in_all else ' (not in `all`)'}"
        for extra in found
    )


def published_claims() -> str:
    """Every published claim, with its source and what decides."""
    from layerwise.analyses.replication.claims import BY_NAME

    lines = ["| claim | says | source | it holds if | the opposite holds if | how it differs |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, claim in BY_NAME.items():
        source = f"{claim.source.authors}, {claim.source.address}, {claim.where}"
        cells = (name, claim.sentence, source, claim.holds, claim.opposite, claim.differs)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


PARTS = {
    "every tables.toml": analyses,
    "every ANALYSIS": extras,
    "every published claim": published_claims,
}


def page_with_parts(path: Path) -> str:
    """A page that is written by hand, with its tables made anew."""
    return MADE.sub(lambda m: f"{m[1]}{PARTS[m[2]]()}{m[3]}", path.read_text("utf-8"))


def methods_page() -> str:
    """The page of methods, with its table of analyses and its list of additions to a profile."""
    return page_with_parts(METHODS)


def claims_page() -> str:
    """The page of published claims, with their table."""
    return page_with_parts(CLAIMS)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    FRAMES.write_text(frames_page(), "utf-8")
    METHODS.write_text(methods_page(), "utf-8")
    CLAIMS.write_text(claims_page(), "utf-8")
