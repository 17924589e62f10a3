"""Axes of layers and of depth: their ticks, and the line between an encoder and a decoder.

All figures use them, so that layers have the same names everywhere. ``naming.stacks`` has the
numbers of layers of the model that is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes

from .naming import NAMES, stacks
from .wording import number

# Points between the axis and the names of stacks, beyond the numbers of layers.
_PAD = {"x": 12.0, "y": 14.0}
LINE = {"color": "0.25", "lw": 0.7, "ls": (0, (4, 2))}


def name_layers(
    axes: Axes, along: str, layers: Sequence[int], room: float, size: float = 0.16,
    *, cells: bool = False, first: int | None = None,
) -> None:  # fmt: skip
    """Set ticks of layers, which are numbered within their stack; stacks are named below the axis.

    ``first`` is the decoder's first layer, or 0 for a single stack; None takes it from ``layers``.
    """
    given, ordered, n_encoder = first, sorted(layers), stacks().n_encoder
    if given is None:  # the decoder's first layer if layers of both stacks are on the axis
        first = n_encoder if ordered[0] < n_encoder <= ordered[-1] else 0
    assert first is not None
    places = {layer: i + 0.5 if cells else float(layer) for i, layer in enumerate(ordered)}
    ticks = _ticks(ordered, first, room, size)
    starts = [first * (tick >= first) if given else _start_of_stack(tick) for tick in ticks]
    texts = [number(float(tick - start)) for tick, start in zip(ticks, starts, strict=True)]
    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_ticks([places[tick] for tick in ticks], texts)
    ends = places[ordered[0]], places[ordered[-1]]
    if first:
        divide_stacks(axes, along, ends[0] - 0.5, places[first] - 0.5, ends[1] + 0.5)
    elif n_encoder:
        name = NAMES[_start_of_stack(ordered[-1]) > 0]
        _name_stacks(axes, along, [sum(ends) / 2], [name])


def name_depths(axes: Axes) -> None:
    """The line between encoder and decoder on an axis from 0, the first layer, to 1, the last."""
    n_encoder, n_layers = stacks()
    if n_encoder:
        divide_stacks(axes, "x", 0.0, (n_encoder - 0.5) / (n_layers - 1), 1.0)


def divide_stacks(axes: Axes, along: str, start: float, line: float, end: float) -> None:
    """A thin line between the encoder and the decoder, and their names along the axis."""
    draw = axes.axvline if along == "x" else axes.axhline
    draw(line, **LINE, zorder=4, gid="encoder | decoder")
    _name_stacks(axes, along, [(start + line) / 2, (line + end) / 2], NAMES)


def layer_ticks(layers: Iterable[int], room: float, size: float = 0.16) -> list[int]:
    """Layers that get a tick label, so that labels of ``size`` inches do not meet."""
    names = sorted(layers)
    span = max(names) - min(names) + 1
    for step in (1, 2, 5, 10, 20, 50, 100):
        if room / span * step >= size:
            break
    return [name for name in names if name % step == 0]


def _name_stacks(axes: Axes, along: str, middles: Sequence[float], names: Sequence[str]) -> None:
    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_ticks(middles, names, minor=True)
    axis.remove_overlapping_locs = False  # a layer's number may stand in the middle of its stack
    axis.set_tick_params(which="minor", length=0, pad=_PAD[along])
    if along == "y":
        for text in axis.get_minorticklabels():
            text.set(rotation=90, verticalalignment="center")


def _start_of_stack(layer: int) -> int:
    """The first layer of the stack that a layer is in."""
    first = stacks().n_encoder
    return first if layer >= first else 0


def _ticks(layers: list[int], first: int, room: float, size: float) -> list[int]:
    if not first:
        start = _start_of_stack(layers[0])
        return [start + tick for tick in layer_ticks([n - start for n in layers], room, size)]
    per_layer = room / (layers[-1] - layers[0] + 1)
    parts = [layer for layer in layers if layer < first], [n - first for n in layers if n >= first]
    ticks = [layer_ticks(part, per_layer * (part[-1] - part[0] + 1), size) for part in parts]
    # the encoder's last tick makes room for the decoder's first
    apart = [tick for tick in ticks[0] if tick >= 0 and (first - tick) * per_layer >= size]
    return apart + [first + tick for tick in ticks[1]]
