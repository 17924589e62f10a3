"""Where the difference between two prompts acts: each layer and token, or head, patched."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.analyses.arguments import check_arguments
from layerwise.errors import UserError
from layerwise.ground.layer_names import layer_name
from layerwise.ground.readers import one_of
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, decoder_prefix, n_encoder_layers, n_heads_of
from layerwise.sweep import Intervention, LogLikelihood, Scored, intact, patch, resample, sweep
from layerwise.sweep.requests import Tokens

from .cells import SIGNED, Panel
from .grid import Grid
from .lens import called
from .reading import prompt, token
from .texts import Prompt, encode_prompt, readable, token_of

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")


@check_arguments(
    clean=prompt, corrupted=prompt, answer=token, wrong=token,
    site=one_of("site to patch", SITES),
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
        chat: wrap the prompts in the tokenizer's chat template.

    Returns:
        A cell per layer and token, or per layer and head. ``table`` has ``logit_difference``.

    Raises:
        UserError: if the prompts have different numbers of tokens or are equal, if the answers are
            several tokens or the same, or if the prompts do not differ in the logit difference.
    """
    given, source = (encode_prompt(model, one, chat=chat) for one in (corrupted, clean))
    _refuse_unlike(model, given, source)
    right, other = token_of(model, answer, "answer"), token_of(model, wrong, "wrong answer")
    if right == other:
        raise UserError(f"Both answers are {answer!r}: expected two tokens; name another.")
    if site == "z":
        places = [
            (layer, head)
            for layer in range(model.cfg.n_layers)
            for head in range(n_heads_of(model, layer))
        ]
        changes = [resample("z", *place) for place in places]
    else:
        places = _places(model, given)
        changes = [patch(site, *place) for place in places]  # type: ignore[arg-type]
    corrupt, *values = _differences(model, [intact(), *changes], given, source, right, other)
    (whole,) = _differences(model, [intact()], source, source, right, other)
    if abs(whole - corrupt) < 1e-3:
        raise UserError(
            f"Both prompts give a logit difference of {whole:.3f}: expected prompts between which "
            "it differs, so that something can come back; change a word that the answer rests on."
        )
    n_encoder = n_encoder_layers(model)
    columns = _columns(model, source, given)
    rows = []
    for (layer, column), value in zip(places, values, strict=True):
        share = (value - corrupt) / (whole - corrupt)
        rows.append({
            "panel": 0, "row": layer, "column": column, "layer": layer,
            ("head" if site == "z" else "position"): column, "logit_difference": value,
            "value": share, "text": f"{share:.1f}" if abs(share) >= 0.05 else "",
            "details": f"{share:.2f} comes back: logit difference {value:.2f}, between "
            f"{corrupt:.2f} (corrupted) and {whole:.2f} (clean)",
        })  # fmt: skip
    if site == "z":
        columns = [str(head) for head in range(1 + max(head for _, head in places))]
    named = tuple(layer_name(layer, n_encoder) for layer in range(model.cfg.n_layers))
    axis = "head" if site == "z" else "token, clean / corrupted"
    title = f"{site} of {called(model)}, patched from the clean into the corrupted prompt"
    note = f"Logit difference: {whole:.2f} clean, {corrupt:.2f} corrupted."
    panel = Panel("", named, tuple(columns), column_axis=axis)
    unit = "share of the logit difference that comes back"
    return Grid(title, pd.DataFrame(rows), (panel,), unit, SIGNED, (note,))


def _refuse_unlike(model: Model, given: Tokens, source: Tokens) -> None:
    if len(given) != len(source):
        clean, corrupted = ("|".join(readable(model, one)) for one in (source, given))
        raise UserError(
            f"The clean prompt has {len(source)} tokens ({clean}) and the corrupted one "
            f"{len(given)} ({corrupted}): expected as many, so that each token has its like; use "
            "words of as many tokens. patch_activations aligns prompts of unequal length."
        )
    if given == source:
        raise UserError("Both prompts are the same: expected one with other words; change some.")


def _places(model: Model, given: Tokens) -> list[tuple[int, int]]:
    """Layers and positions; the decoder of an encoder-decoder has those that it begins with."""
    n_encoder = n_encoder_layers(model)
    begins = len(decoder_prefix(model))
    return [
        (layer, position)
        for layer in range(model.cfg.n_layers)
        for position in range(begins if n_encoder and layer >= n_encoder else len(given))
    ]


def _columns(model: Model, source: Tokens, given: Tokens) -> list[str]:
    """The tokens of both prompts, once where they are the same."""
    pairs = zip(readable(model, source), readable(model, given), strict=True)
    return [one if one == other else f"{one}/{other}" for one, other in pairs]


def _differences(
    model: Model,
    changes: list[Intervention],
    given: Tokens,
    source: Tokens,
    right: int,
    other: int,
) -> list[float]:
    """Logit differences under changes: log-probabilities differ by as much."""
    asked: list[Any] = [LogLikelihood(given, (token,), source) for token in (right, other)]
    found = []
    for first, second in sweep(model, changes, asked).outcomes:
        assert isinstance(first, Scored)
        assert isinstance(second, Scored)
        found.append(first.logprob - second.logprob)
    return found
