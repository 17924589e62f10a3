"""The command that shows one prompt from the inside, in colour where there is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from layerwise.prompts.grid import Grid

_CELL = 9


def look(
    model: Annotated[str, typer.Argument(help="Bundled alias, file, folder or hub id.")],
    prompt: Annotated[str, typer.Argument(help="The text, in quotes.")],
    token: Annotated[
        str | None, typer.Option(help="One token, such as ' Paris': colours show it alone.")
    ] = None,
    skips: Annotated[bool, typer.Option(help="Also without each layer.")] = True,
    chat: Annotated[bool, typer.Option("--chat", help="Use the chat template.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    backend: Annotated[
        str, typer.Option(help="What runs a decoder: auto, transformer-lens or hugging-face.")
    ] = "auto",
) -> None:
    """Show what each layer would say next in a prompt, and what is said without it."""
    from layerwise.prompts.lens import lens_grid
    from layerwise.prompts.skip import skip_grid

    from .commands import load_named

    loaded = load_named(model, dtype=dtype, device=device, backend=backend)
    print_grid(lens_grid(loaded, prompt, token=token, chat=chat))
    if skips:
        print_grid(skip_grid(loaded, prompt, chat=chat))


def print_grid(grid: Grid) -> None:
    """Print a grid as wide as the terminal; of many columns the last."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from layerwise.prompts.drawing import colors_of
    from layerwise.prompts.grid import ILLUSTRATION

    console = Console()
    console.print(Text(f"{grid.title} (colour: {grid.unit})", style="bold"))
    for place, panel in enumerate(grid.panels):
        names = max(len(panel.row_axis), *map(len, panel.rows)) + 1
        first = max(0, len(panel.columns) - (console.width - names) // (_CELL + 1))
        table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column(Text(panel.row_axis), justify="right")
        for name in panel.columns[first:]:
            table.add_column(Text(name[:_CELL]), width=_CELL, no_wrap=True, overflow="crop")
        cells = {
            (row.row, row.column): row
            for row in grid.table.loc[grid.table["panel"] == place].itertuples()
        }
        order = range(len(panel.rows))
        for row in reversed(order) if grid.upward else order:
            texts = []
            for column in range(first, len(panel.columns)):
                cell = cells.get((row, column))
                if cell is None:
                    texts.append(Text(""))
                    continue
                back, front = colors_of(grid, float(cell.value))  # type: ignore[arg-type]
                texts.append(Text(str(cell.text)[:_CELL].ljust(_CELL), style=f"{front} on {back}"))
            table.add_row(Text(panel.rows[row]), *texts)
        console.print(table)
        if first:
            shown = f"{len(panel.columns) - first} of {len(panel.columns)} columns"
            console.print(f"Shown are the last {shown}: a wider terminal has room for more.")
    for note in grid.notes:
        console.print(Text(note))
    console.print(Text(ILLUSTRATION, style="dim"))
