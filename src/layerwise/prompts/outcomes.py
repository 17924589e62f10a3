"""Functions of the logits of one's own prompts, under interventions and patches.

They give numbers and test nothing; ``patch_activations`` and ``ablate`` test tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import pandas as pd
import torch

from layerwise.analyses.patching.cells import HEAD_SITES, PatchCell, PatchingLayout
from layerwise.errors import UserError, short_repr
from layerwise.ground.argument_types import Layers, SomeNames, known_name_validator
from layerwise.ground.arguments import check_arguments
from layerwise.ground.readers import Reads, entries, plain, refuse
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, decoder_prefix
from layerwise.runs.setup import check_layers
from layerwise.sweep import Intervention, LogLikelihood, intact
from layerwise.sweep.changes.edits import SITES
from layerwise.sweep.changes.interventions import runs_functions
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.checks.reference import intervened_logits
from layerwise.sweep.requests import Tokens
from layerwise.sweep.run import next_outcomes, plan_for_model

from .patch import PositionPair
from .texts import AnyPrompt, Positions, Prompts, encode_prompt, list_prompts, select_positions

LAST, ALL = LOGITS = ("last", "all")
"""Logits that a function gets: those of the next token, or of each position."""


def read_function(name: str, value: Any) -> Any:
    """Read a function of logits."""
    if isinstance(value, type) or not callable(value):
        raise refuse(name, value, "a function of logits, such as lambda logits: logits[7]")
    return value


def read_interventions(name: str, value: Any) -> list[Intervention]:
    """Read one intervention or several."""
    expected = "interventions, such as [layerwise.sweep.skip(3), layerwise.sweep.zero('z', 4)]"
    given = [value] if isinstance(value, Intervention) else entries(name, value, expected)
    for one in given or [value]:
        if not isinstance(one, Intervention):
            raise refuse(name, one, expected)
    return given


OfLogits = Annotated[Callable[..., Any], Reads(read_function, "Callable")]
Interventions = Annotated[
    Sequence[Intervention], Reads(read_interventions, "Sequence[Intervention]")
]
Which = Annotated[str, known_name_validator("logits", LOGITS)]


@check_arguments()
@exclusive
def intervene(
    model: LoadedModel,
    prompts: Prompts,
    interventions: Interventions,
    *,
    outcome: OfLogits,
    logits: Which = LAST,
    source: AnyPrompt | None = None,
    chat: bool = False,
) -> pd.DataFrame:
    """Measure a function of the logits under each intervention, for each prompt.

    Interventions are values of ``layerwise.sweep``: ``skip``, ``zero``, ``mean``, ``noise``,
    ``patch``, ``together``, and ``apply`` for a function of your own. The engine makes all of them
    in one walk through the layers. Slow are ``logits="all"`` and ``apply``, for which the reference
    makes a plain forward with hooks for each intervention and prompt.

    Args:
        model: the model.
        prompts: a text, token ids, or turns of a chat; or a list of texts.
        interventions: what is changed, one run each; ``layerwise.sweep.intact()`` changes nothing.
        outcome: takes logits in float32 and gives one number.
        logits: ``last`` gives the function those of the next token, ``[d_vocab]``; ``all`` those of
            each position, ``[pos, d_vocab]``, of an encoder-decoder where the decoder begins.
        source: the prompt that patches and resampling take activations from.
        chat: wrap the prompts in the tokenizer's chat template.

    Returns:
        A row for each intervention and prompt: ``intervention`` (its id), ``layer`` (the first
        that it changes), ``prompt`` (its number, from 0) and ``outcome``.

    Raises:
        UserError: for an empty prompt, an intervention that does not fit the model or has no
            source, or a function that gives no number.

    Examples:
        >>> import layerwise as lw
        >>> model, prompt = lw.load_model("wired-decoder"), [5, 6, 7, 8]
        >>> skips = [lw.sweep.skip(layer) for layer in range(model.cfg.n_layers)]
        >>> table = lw.intervene(model, prompt, skips, outcome=lambda logits: logits.max())
        >>> len(table) == model.cfg.n_layers
        True
    """
    given = None if source is None else encode_prompt(model, source, chat=chat)
    rows = []
    for number, prompt in enumerate(list_prompts(prompts)):
        tokens = encode_prompt(model, prompt, chat=chat)
        values = _outcomes(model, interventions, tokens, given, outcome, logits, "outcome")
        rows += [
            {"intervention": one.id, "layer": one.layer, "prompt": number, "outcome": value}
            for one, value in zip(interventions, values, strict=True)
        ]
    table = pd.DataFrame(rows, columns=["intervention", "layer", "prompt", "outcome"])
    return table.astype({"layer": "Int64"})


@check_arguments()
@exclusive
def patch(
    model: LoadedModel,
    clean: AnyPrompt,
    corrupted: AnyPrompt,
    *,
    metric: OfLogits,
    sites: Annotated[SomeNames, known_name_validator("site to patch", SITES)] = ("resid_pre",),
    layers: Layers | None = None,
    positions: Positions = "all",
    logits: Which = LAST,
    chat: bool = False,
) -> pd.DataFrame:
    """Patch one clean activation at a time into the corrupted run, and measure any metric.

    The corrupted prompt is run with one activation of the clean prompt (Meng et al. 2022,
    arXiv:2202.05262), at each site, layer, position and head. The engine makes all patches in one
    walk through the layers. With ``logits="all"`` the reference makes a plain forward with hooks
    for each, which is slow; both agree to 1e-4 nats in float32. ``patch_activations`` tests tasks.

    Args:
        model: the model.
        clean: the prompt that activations are taken from.
        corrupted: the prompt that is patched, of as many tokens.
        metric: takes logits in float32 and gives one number: a logit difference, a probability, a
            KL divergence from logits that you kept, or your own.
        sites: ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out`` or ``z``
            (each head); in the decoder of an encoder-decoder also ``resid_mid_cross``,
            ``cross_attn_out`` and ``cross_z``.
        layers: which layers; all if None.
        positions: which tokens of the prompts, from 0, negative ones from their end; ``"all"``. In
            the decoder of an encoder-decoder it is always all that it begins with.
        logits: ``last`` gives the metric those of the next token, ``[d_vocab]``; ``all`` those of
            each position, ``[pos, d_vocab]``.
        chat: wrap the prompts in the tokenizer's chat template.

    Returns:
        A row for each patch: ``site``, ``layer``, ``head`` (of ``z``), ``position``, ``token`` (in
        the clean and the corrupted prompt), and the metric of the three runs: ``clean``,
        ``corrupted`` and ``patched``.

    Raises:
        UserError: if the prompts are equal or differ in their numbers of tokens, if the model has
            no such site, layer or position, or the metric gives no number.

    Examples:
        >>> import layerwise as lw
        >>> model = lw.load_model("wired-decoder")
        >>> table = lw.patch(model, [5, 6, 7], [5, 8, 7], metric=lambda logits: logits[6])
        >>> len(table) == 3 * model.cfg.n_layers
        True
    """
    source, tokens = (encode_prompt(model, one, chat=chat) for one in (clean, corrupted))
    if source == tokens:
        raise UserError("Both prompts are the same: expected other words in one; change some.")
    if len(source) != len(tokens):
        raise UserError(
            f"The clean prompt has {len(source)} tokens and the corrupted one {len(tokens)}: "
            "expected as many in both, so that each position has its counterpart; change words for "
            "others of as many tokens, or use patch_grid, which pairs what it can."
        )
    layout = PatchingLayout.for_model(model)
    cells = list(_cells(layout, sites, check_layers(layers, model), tokens, positions))
    if not cells:
        raise UserError(
            f"There is nothing to patch at {', '.join(sites)} in these layers: expected sites that "
            "they have; name others."
        )
    changes = [intact(), *(cell.intervention() for cell in cells)]
    before, *patched = _outcomes(model, changes, tokens, source, metric, logits, "metric")
    (whole,) = _outcomes(model, [intact()], source, source, metric, logits, "metric")
    begins = decoder_prefix(model)
    of_prompt, of_decoder = (
        _token_names(model, *both) for both in ((source, tokens), [begins] * 2)
    )
    decoder = {layer for part, where in layout.parts("z") if where == "decoder" for layer in part}
    rows = []
    for cell, value in zip(cells, patched, strict=True):
        at = cell.places[0][0]
        token = (of_decoder if cell.layer in decoder else of_prompt)[at]
        rows.append((cell.site, cell.layer, cell.head, at, token, whole, before, value))
    columns = ["site", "layer", "head", "position", "token", "clean", "corrupted", "patched"]
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int64"})


def _token_names(model: Model, clean: Tokens, corrupted: Tokens) -> list[str]:
    """Tokens at each position of two prompts of one length."""
    both = enumerate(zip(clean, corrupted, strict=True))
    return [PositionPair(at, at, tokens).name(model) for at, tokens in both]


def _cells(
    layout: PatchingLayout,
    sites: Sequence[str],
    layers: Sequence[int],
    tokens: Tokens,
    positions: Sequence[int] | str,
) -> Iterator[PatchCell]:
    """The patches of some sites and layers, one position and head each."""
    every = range(len(tokens))
    at = select_positions(every, positions, every)
    for site in sites:
        for part, where in layout.parts(site):
            places = range(layout.n_begins) if where == "decoder" else at
            for layer in sorted({*part} & {*layers}):
                heads = range(layout.heads[layer]) if site in HEAD_SITES else (None,)
                yield from (
                    PatchCell(site, layer, head, "", ((pos, pos),))
                    for pos in places
                    for head in heads
                )


def _outcomes(
    model: Model,
    changes: Sequence[Intervention],
    tokens: Tokens,
    source: Tokens | None,
    function: Callable[..., Any],
    logits: str,
    name: str,
) -> list[float]:
    """A function's values under changes, by the engine where it can."""
    if logits == LAST and not any(map(runs_functions, changes)):
        return next_outcomes(
            model, changes, tokens, lambda row: _number(function(row), name), source=source
        )
    check_faithful(model, "reference")
    request, values = LogLikelihood(tokens, (0,), source), []
    plan_for_model(model, changes, [request])  # refuses what does not fit the model
    with torch.inference_mode():
        for change in changes:
            read = intervened_logits(model, change, request).float()
            values.append(_number(function(read[-1] if logits == LAST else read), name))
    return values


def _number(value: Any, name: str) -> float:
    """The number that a function of logits gave."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        shape = f"a tensor of shape {[*value.shape]}" if isinstance(value, torch.Tensor) else ""
        raise UserError(
            f"The function in {name!r} gave {shape or short_repr(value)}: expected one number, "
            "such as logits[7] - logits[8]; return that."
        )
    return float(number)
