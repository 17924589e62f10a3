"""Where the difference between two prompts acts: each layer and token, or head, patched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerwise.analyses.arguments import check_arguments
from layerwise.errors import UserError
from layerwise.ground.layer_names import layer_name
from layerwise.ground.readers import numbers, one_of
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, decoder_prefix, n_encoder_layers, n_heads_of
from layerwise.runs.setup import check_layers
from layerwise.sweep import Intervention, LogLikelihood, Scored, intact, patch, resample, sweep
from layerwise.sweep.requests import Tokens

from .cells import SIGNED, Panel
from .grid import Grid
from .lens import MOST_COLUMNS, called
from .reading import positions, positions_of, prompt, token
from .texts import Prompt, answers_of, encode_prompt, readable

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")


@check_arguments(
    clean=prompt, corrupted=prompt, answer=token, wrong=token, positions=positions,
    site=one_of("site to patch", SITES), layers=numbers("[0, 3]", names=True),
)  # fmt: skip
@exclusive
def patch_grid(
    model: Model,
    clean: Prompt,
    corrupted: Prompt,
    answer: str | int,
    wrong: str | int,
    *,
    site: str = "resid_pre",
    layers: Sequence[int | str] | None = None,
    positions: Sequence[int] | str | None = None,
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
        corrupted: the same with other words, in as many tokens.
        answer: what follows the clean prompt: one token, such as ``" Paris"``.
        wrong: what follows the corrupted one: one token.
        site: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out`` or ``mlp_out``; ``z`` for
            each head, at all tokens at once.
        layers: which layers; all if None.
        positions: which tokens, from 0; ``"all"``; of more than 48, those that differ and the
            last ones if None.
        chat: wrap the prompts in the tokenizer's chat template.

    Returns:
        A cell per layer and token, or per layer and head. ``table`` has ``logit_difference``.

    Raises:
        UserError: if the prompts have different numbers of tokens or are equal, if the answers are
            several tokens or the same, or if the prompts do not differ in the logit difference.
    """
    given, source = (encode_prompt(model, prompt, chat=chat) for prompt in (corrupted, clean))
    _refuse_unlike(model, given, source)
    right, other = answers_of(model, answer, wrong)
    if site == "z" and positions is not None:
        raise UserError(
            "Heads are patched at all tokens at once: expected positions= with another site; "
            "leave it out, or use site='attn_out'."
        )
    rows, n_encoder = sorted(check_layers(layers, model)), n_encoder_layers(model)
    at = positions_of(range(len(given)), positions, _most_telling(given, source))
    if site == "z":
        of = "head"
        places = [(layer, head) for layer in rows for head in range(n_heads_of(model, layer))]
        changes = [resample("z", *place) for place in places]
        columns = [str(head) for head in range(1 + max(head for _, head in places))]
    else:
        of = "position"
        # The decoder of an encoder-decoder has those positions that it begins with.
        begins = range(len(decoder_prefix(model)))
        of_layer = {layer: begins if 0 < n_encoder <= layer else at for layer in rows}
        places = [(layer, position) for layer in rows for position in of_layer[layer]]
        changes = [patch(site, *place) for place in places]  # type: ignore[arg-type]
        columns = _columns(model, [source[i] for i in at], [given[i] for i in at])
    corrupt, *values = _differences(model, [intact(), *changes], given, source, right, other)
    (whole,) = _differences(model, [intact()], source, source, right, other)
    if abs(whole - corrupt) < 1e-3:
        raise UserError(
            f"Both prompts give a logit difference of {whole:.3f}: expected prompts between which "
            "it differs, so that something can come back; change a word that the answer rests on."
        )
    table = pd.DataFrame(places, columns=["layer", of]).assign(panel=0, logit_difference=values)
    shares = (table["logit_difference"] - corrupt) / (whole - corrupt)
    table = table.assign(
        row=table["layer"].map(rows.index), column=table.groupby("layer").cumcount(), value=shares,
        text=[f"{share:.1f}" if abs(share) >= 0.05 else "" for share in shares],
        details=[
            f"{share:.2f} comes back: logit difference {value:.2f}, between "
            f"{corrupt:.2f} (corrupted) and {whole:.2f} (clean)"
            for share, value in zip(shares, values, strict=True)
        ],
    )  # fmt: skip
    notes = [f"Logit difference: {whole:.2f} clean, {corrupt:.2f} corrupted."]
    if site != "z" and positions is None and len(at) < len(given):
        notes.append(f"Shown are tokens that differ and the last: {len(at)} of {len(given)}.")
    named = tuple(layer_name(layer, n_encoder) for layer in rows)
    axis = "head" if site == "z" else "token, clean / corrupted"
    title = f"{site} of {called(model)}, patched from the clean into the corrupted prompt"
    panel = Panel("", named, tuple(columns), column_axis=axis)
    unit = "share of the logit difference that comes back"
    return Grid(title, table, (panel,), unit, SIGNED, tuple(notes))


def _most_telling(given: Tokens, source: Tokens) -> list[int]:
    """All positions; of too many those that differ, half of the room at most, and the last."""
    differ = [pos for pos, pair in enumerate(zip(given, source, strict=True)) if len({*pair}) > 1]
    kept = set(differ[: MOST_COLUMNS // 2])
    for pos in reversed(range(len(given))):
        if len(kept) < MOST_COLUMNS:
            kept.add(pos)
    return sorted(kept)


def _refuse_unlike(model: Model, given: Tokens, source: Tokens) -> None:
    if len(given) != len(source):
        clean, corrupted = ("|".join(readable(model, tokens)) for tokens in (source, given))
        raise UserError(
            f"The clean prompt has {len(source)} tokens ({clean}) and the corrupted one "
            f"{len(given)} ({corrupted}): expected as many, so that each token has its like; use "
            "words of as many tokens. patch_activations aligns prompts of unequal length."
        )
    if given == source:
        raise UserError("Both prompts are the same: expected one with other words; change some.")


def _columns(model: Model, source: Sequence[int], given: Sequence[int]) -> list[str]:
    """The tokens of both prompts, once where they are the same."""
    pairs = zip(readable(model, source), readable(model, given), strict=True)
    return [first if first == other else f"{first}/{other}" for first, other in pairs]


def _differences(
    model: Model,
    changes: list[Intervention],
    given: Tokens,
    source: Tokens,
    right: int,
    other: int,
) -> list[float]:
    """Logit differences under changes: log-probabilities differ by as much."""
    requests: list[Any] = [LogLikelihood(given, (token,), source) for token in (right, other)]
    differences = []
    for first, second in sweep(model, changes, requests).outcomes:
        assert isinstance(first, Scored)
        assert isinstance(second, Scored)
        differences.append(first.logprob - second.logprob)
    return differences
