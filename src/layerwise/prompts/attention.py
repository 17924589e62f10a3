"""Attention of each head of a layer in a prompt."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
import torch

from layerwise.analyses.arguments import check_arguments
from layerwise.errors import UserError
from layerwise.ground.argument_types import ExpectedWords, Whole, known_name_validator
from layerwise.ground.layer_names import layer_name
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import (
    decoder_prefix,
    hook_name,
    model_inputs,
    n_encoder_layers,
)

from .drawing import Panel
from .grid import SHARE, Grid
from .lens import MOST_COLUMNS, model_name
from .texts import AnyPrompt, encode_prompt, probability, readable

PATTERNS = ("pattern", "cross_pattern")
EARLIER = "earlier"
"""The column of all tokens before those that are shown."""


@check_arguments()
@exclusive
def attention_grid(
    model: LoadedModel,
    prompt: AnyPrompt,
    *,
    layer: Annotated[Whole, ExpectedWords("a whole number", "3")],
    head: Annotated[Whole, ExpectedWords("a whole number", "0")] | None = None,
    site: Annotated[str, known_name_validator("kind of attention", PATTERNS)] = "pattern",
    chat: bool = False,
) -> Grid:
    """Show where each head of a layer looks: its attention pattern on a prompt.

    It is an illustration and claims nothing: a head may look where nothing is used.

    Args:
        model: the model.
        prompt: a text, token ids, or turns of a chat.
        layer: which layer, in the order of computation.
        head: one head, drawn large; all of them, a panel each, if None.
        site: ``pattern``; of a layer of an encoder-decoder's decoder also ``cross_pattern``.
        chat: wrap the prompt in the tokenizer's chat template.

    Returns:
        A cell per pair of tokens: the share of its attention that a token (row) gives to another
        (column). Rows sum to 1, but for what a model's own attention sinks take. Of a long prompt,
        the last 48 tokens; the first column sums what they give to tokens before these.

    Raises:
        UserError: for an empty prompt, or a layer or head that is not there.
    """
    tokens = encode_prompt(model, prompt, chat=chat)
    n_encoder, n_layers = n_encoder_layers(model), model.cfg.n_layers
    if not 0 <= layer < n_layers:
        raise UserError(f"There is no layer {layer}: expected one of 0 to {n_layers - 1}.")
    if site == "cross_pattern" and not layer >= n_encoder > 0:
        raise UserError(
            f"Layer {layer} has no cross-attention: expected a layer of an encoder-decoder's "
            "decoder; use site='pattern'."
        )
    kept: list[torch.Tensor] = []
    hook = hook_name(model, layer, site), lambda tensor, hook: kept.append(tensor[0].float().cpu())
    with torch.inference_mode(), model.hooks(fwd_hooks=[hook]):
        model(*model_inputs(model, [tokens]))
    pattern = kept[0].numpy()  # head by token by token
    if head is not None and not 0 <= head < len(pattern):
        raise UserError(f"There is no head {head}: expected one of 0 to {len(pattern) - 1}.")
    heads = range(len(pattern)) if head is None else [head]
    looking = decoder_prefix(model) if 0 < n_encoder <= layer else tokens
    seen = looking if site == "pattern" else tokens
    cuts = [max(0, len(ids) - MOST_COLUMNS) for ids in (looking, seen)]
    rows, columns = (
        tuple(readable(model, ids[cut:])) for ids, cut in zip((looking, seen), cuts, strict=True)
    )
    causal = site == "pattern" and n_encoder == 0  # what comes later is not seen
    cut = cuts[1]
    shares = pattern[:, cuts[0] :, cut:]
    if cut:  # most of a row may go to the first token
        earlier = pattern[:, cuts[0] :, :cut].sum(-1, keepdims=True)
        shares, columns = np.concatenate([earlier, shares], axis=2), (EARLIER, *columns)
    first = cut - (cut > 0)  # the position that the first column stands for
    table = pd.DataFrame([
        {
            "panel": place, "row": row, "column": column, "layer": layer, "head": number,
            "position": row + cuts[0],
            "attended": None if cut and not column else column + first, "value": float(value),
            "text": "",
            "details": f"{rows[row]} looks at {columns[column]}: {probability(float(value))}",
        }
        for place, number in enumerate(heads)
        for (row, column), value in np.ndenumerate(shares[number])
        if not (causal and column + first > row + cuts[0])
    ])  # fmt: skip
    axes, notes = ["token", "token it looks at"], ()
    if any(cuts):
        shown = f"the last {MOST_COLUMNS} of {len(tokens)}"
        notes = (f"Shown are {shown} tokens; {EARLIER!r} sums what they give to those before.",)
        axes = [f"{axis}: {shown}" if cut else axis for axis, cut in zip(axes, cuts, strict=True)]
    panels = tuple(Panel(f"head {number}", rows, columns, *axes) for number in heads)
    title = f"Attention of layer {layer_name(layer, n_encoder)} of {model_name(model)}"
    return Grid(title, table, panels, "share of attention", SHARE, notes, upward=False)
