"""Patching of each layer and token, or head, between two prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import pandas as pd

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.patching.cells import ALL, PatchCell, paired_positions
from layerwise.errors import UserError
from layerwise.ground.argument_types import Layers, known_name_validator
from layerwise.ground.layer_names import layer_name
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, decoder_prefix, n_encoder_layers, n_layer_heads
from layerwise.runs.setup import check_layers
from layerwise.sweep import Intervention, LogLikelihood, intact, sweep
from layerwise.sweep.requests import Tokens
from layerwise.tasks.pairs import changed_spans

from .drawing import Panel
from .grid import SIGNED, Grid
from .lens import MOST_COLUMNS, model_name
from .texts import (
    AnyPrompt,
    AnyToken,
    Positions,
    answer_ids,
    encode_prompt,
    readable,
    select_positions,
    with_direction_mark,
)


class PositionPair(NamedTuple):
    """A position of the clean prompt and the one of the corrupted that stands for it.

    Where there is no counterpart it is None, and so is its token.
    """

    clean: int | None
    corrupted: int | None
    tokens: tuple[int | None, int | None]

    def name(self, model: Model) -> str:
        """The tokens of both prompts, once where they are the same."""
        texts = ["–" if token is None else with_direction_mark(*readable(model, [token]))
                 for token in dict.fromkeys(self.tokens)]  # fmt: skip
        return "/".join(texts)


def align_positions(model: Model, clean: Tokens, corrupted: Tokens) -> list[PositionPair]:
    """Pair what both prompts begin and end with, and the first and last tokens between."""
    if clean == corrupted:
        raise UserError("Both prompts are the same: expected other words in one; change some.")
    before, changed, after = paired_positions(clean, corrupted)
    if not after and len(clean) != len(corrupted):
        texts = [f"{len(one)} ({'|'.join(readable(model, one))})" for one in (clean, corrupted)]
        raise UserError(
            f"The clean prompt has {texts[0]} tokens and the corrupted one {texts[1]}: "
            "expected as many, or the same words at their ends; change words before the end."
        )
    of_clean, of_corrupted = changed_spans(clean, corrupted)
    alone = [(at, None) for at in of_clean if at not in [pair[0] for pair in changed]]
    alone += [(None, at) for at in of_corrupted if at not in [pair[1] for pair in changed]]
    every = [*before, *changed[:-1], *alone, *changed[-1:], *after]
    return [
        PositionPair(a, b, (None if a is None else clean[a], None if b is None else corrupted[b]))
        for a, b in every
    ]


def select_pairs(
    pairs: list[PositionPair], positions: Sequence[int] | str | None
) -> list[PositionPair]:
    """The pairs at some positions of the corrupted prompt; of too many the most telling."""
    every = range(len(pairs))
    usual = {number for number in every if len(set(pairs[number].tokens)) > 1}
    usual = set(sorted(usual)[: MOST_COLUMNS // 2])
    for number in reversed(every):
        if len(usual) < MOST_COLUMNS:
            usual.add(number)
    of_corrupted = [number for number in every if pairs[number].corrupted is not None]
    known = every if positions == "all" else of_corrupted
    return [pairs[number] for number in select_positions(known, positions, sorted(usual))]


SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")


@check_arguments()
@exclusive
def patch_grid(
    model: LoadedModel,
    clean: AnyPrompt,
    corrupted: AnyPrompt,
    answer: AnyToken,
    wrong: AnyToken,
    *,
    site: Annotated[str, known_name_validator("site to patch", SITES)] = "resid_pre",
    layers: Layers | None = None,
    positions: Positions | None = None,
    chat: bool = False,
) -> Grid:
    """Patch activations of one prompt into another, at each layer and token or head.

    The corrupted prompt is run with one activation of the clean prompt. A cell is the share of
    the logit difference, answer minus wrong, that comes back: 0 as in the corrupted run, 1 as in
    the clean one (Wang et al. 2022, arXiv:2211.00593; Heimersheim and Nanda 2024,
    arXiv:2404.15255). It is an illustration; ``patch_activations`` tests tasks.

    Args:
        model: the model.
        clean: the prompt that the answer follows.
        corrupted: the same with other words. Of prompts with different numbers of tokens those
            are paired that both begin with, those that both end in, the first changed ones and the
            last changed ones; others of the change are not patched.
        answer: what follows the clean prompt: one token, such as ``" Paris"``.
        wrong: what follows the corrupted one: one token.
        site: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out`` or ``mlp_out``; ``z`` for
            each head, at all tokens at once.
        layers: which layers; all if None.
        positions: which tokens of the corrupted prompt, from 0; ``"all"``; of more than 48, those
            that differ and the last ones if None.
        chat: wrap the prompts in the tokenizer's chat template.

    Returns:
        A cell per layer and token, or per layer and head. ``table`` has ``logit_difference``, and
        of tokens ``position`` and ``clean_position``.

    Raises:
        UserError: if the prompts are equal, if their numbers of tokens differ and so does the last
            token, if the answers are several tokens or the same, or if the prompts do not differ
            in the logit difference.
    """
    given, source = (encode_prompt(model, prompt, chat=chat) for prompt in (corrupted, clean))
    pairs = align_positions(model, source, given)
    answers = answer_ids(model, answer, wrong)
    if site == "z" and positions is not None:
        raise UserError(
            "Heads are patched at all tokens at once: expected positions= with another site; "
            "leave it out, or use site='attn_out'."
        )
    rows, n_encoder = sorted(check_layers(layers, model)), n_encoder_layers(model)
    columns = pairs if site == "z" else select_pairs(pairs, positions)
    cells = [cell for layer in rows for cell in _cells(model, layer, site, columns)]
    if not cells:
        raise UserError(
            f"Positions {positions} have no counterpart in the clean prompt: expected others; "
            "leave positions= out."
        )
    changes = [cell.intervention() for _, cell in cells]
    corrupt, *values = _differences(model, [intact(), *changes], given, source, answers)
    (whole,) = _differences(model, [intact()], source, source, answers)
    if abs(whole - corrupt) < 1e-3:
        raise UserError(
            f"Both prompts give a logit difference of {whole:.3f}: expected prompts between which "
            "it differs, so that something can come back; change a word that the answer rests on."
        )
    shares = [(value - corrupt) / (whole - corrupt) for value in values]
    table = pd.DataFrame([
        {"layer": cell.layer, **_place(cell), "panel": 0, "logit_difference": value,
         "row": rows.index(cell.layer), "column": column, "value": share,
         "text": f"{share:.1f}" if abs(share) >= 0.05 else "",
         "details": f"{share:.2f} comes back: logit difference {value:.2f}, between "
         f"{corrupt:.2f} (corrupted) and {whole:.2f} (clean)"}
        for (column, cell), value, share in zip(cells, values, shares, strict=True)
    ])  # fmt: skip
    notes = [f"Logit difference: {whole:.2f} clean, {corrupt:.2f} corrupted."]
    named = tuple(layer_name(layer, n_encoder) for layer in rows)
    alone = [token for pair in pairs if None in pair for token in pair.tokens if token is not None]
    if alone:
        several = ", ".join(
            [*map(with_direction_mark, readable(model, alone[:8])), *["…"] * (len(alone) > 8)]
        )
        n_changed = sum(None not in pair and len(set(pair.tokens)) > 1 for pair in pairs)
        if n_changed:
            which = "first and the last" if n_changed > 1 else "last"
            notes.append(f"Of the tokens that differ, only the {which} are paired.")
        notes.append(f"Without counterpart in the other prompt, so not patched: {several}.")
    if site == "z":
        names = [str(head) for head in range(1 + max(column for column, _ in cells))]
        axis = "head"
    else:
        names, axis = [pair.name(model) for pair in columns], "token, clean/corrupted"
        if positions is None and len(columns) < len(pairs):
            cut = f"{len(columns)} of {len(pairs)}"
            notes.append(f"Shown are tokens that differ and the last: {cut}.")
            axis += f": those that differ and the last, {cut}"
    title = f"{site} of {model_name(model)}, patched from the clean into the corrupted prompt"
    panel = Panel("", named, tuple(names), column_axis=axis)
    unit = "share of the logit difference that comes back"
    return Grid(title, table, (panel,), unit, SIGNED, tuple(notes))


def _cells(
    model: Model, layer: int, site: str, pairs: Sequence[PositionPair]
) -> list[tuple[int, PatchCell]]:
    """Patches of a layer, each with its column."""
    places = [
        (column, (pair.corrupted, pair.clean)) for column, pair in enumerate(pairs)
        if pair.clean is not None and pair.corrupted is not None
    ]  # fmt: skip
    if 0 < n_encoder_layers(model) <= layer:
        # The decoder of an encoder-decoder has those positions that it begins with.
        places = [(pos, (pos, pos)) for pos in range(len(decoder_prefix(model)))]
    if site == "z":
        every = tuple(place for _, place in places)
        heads = range(n_layer_heads(model, layer))
        return [(head, PatchCell(site, layer, head, ALL, every)) for head in heads]
    return [(column, PatchCell(site, layer, None, "", (place,))) for column, place in places]


def _place(cell: PatchCell) -> dict[str, int | None]:
    """Place of a patched cell, as columns of the table."""
    if cell.head is not None:
        return {"head": cell.head}
    return dict(zip(("position", "clean_position"), cell.place, strict=True))


def _differences(
    model: Model, changes: list[Intervention], given: Tokens, source: Tokens, answers: Tokens
) -> list[float]:
    """Logit differences under changes: log-probabilities differ by as much."""
    requests = [LogLikelihood(given, (token,), source) for token in answers]
    outcomes: Any = sweep(model, changes, requests).outcomes
    return [right.logprob - wrong.logprob for right, wrong in outcomes]
