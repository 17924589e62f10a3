"""Contributions of each part of the model to the difference between two next tokens."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.attribution.api import Question, read_parts
from layerwise.ground.layer_names import layer_name
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import n_encoder_layers

from .drawing import Panel
from .grid import SIGNED, Grid
from .lens import model_name
from .texts import AnyPrompt, AnyToken, answer_ids, encode_prompt, in_short

_OUTSIDE = ("embedding", "norm_bias", "unembed_bias")
_SUBLAYERS = ("attn_out", "cross_attn_out", "mlp_out", "norm_bias")
_NAMES = {"attn_out": "attention", "cross_attn_out": "cross-attention", "mlp_out": "MLP",
          "norm_bias": "norm's bias"}  # fmt: skip


@check_arguments()
@exclusive
def attribute(
    model: LoadedModel,
    prompt: AnyPrompt,
    answer: AnyToken,
    wrong: AnyToken,
    *,
    chat: bool = False,
) -> Grid:
    """Show what each layer's attention, MLP and heads add to the logit difference of two tokens.

    Direct logit attribution (Elhage et al. 2021, "A Mathematical Framework for Transformer
    Circuits"): the final norm is held at its scale in this run, and the logit difference, answer
    minus wrong, is the exact sum of the parts. What a part does through later layers is not in it.
    It is an illustration and claims nothing; ``attribution`` tests tasks.

    Args:
        model: the model.
        prompt: a text, token ids, or turns of a chat.
        answer: one token of the vocabulary, such as ``" Paris"``.
        wrong: another.
        chat: wrap the prompt in the tokenizer's chat template.

    Returns:
        Two panels: sublayers by layer, and heads by layer. ``table`` has ``component``.

    Raises:
        UserError: for an empty prompt, answers of several tokens or the same, or a model whose
            norms cannot be taken apart.
    """
    tokens = encode_prompt(model, prompt, chat=chat)
    right, other = answer_ids(model, answer, wrong)
    parts, _ = read_parts(model, [Question("prompt", tokens, right, (other,))])
    parts = parts.loc[parts["metric"] == "logit_diff"]
    n_encoder = n_encoder_layers(model)
    names = tuple(layer_name(layer, n_encoder) for layer in range(model.cfg.n_layers))
    placed = parts.dropna(subset=["layer"])
    sublayers = [name for name in _SUBLAYERS if name in set(placed["component"])]
    panel_of = {**dict.fromkeys(sublayers, 0), "z": 1, "cross_z": 2}
    rows: list[dict[str, Any]] = []
    for part in placed.loc[placed["component"].isin(list(panel_of))].itertuples():
        component, value, layer = str(part.component), float(part.value), int(part.layer)
        head = None if pd.isna(part.head) else int(part.head)
        rows.append({
            "panel": panel_of[component], "row": layer, "layer": layer, "head": head,
            "column": sublayers.index(component) if head is None else head,
            "component": component, "value": value,
            "text": f"{value:.1f}" if abs(value) >= 0.05 else "",
            "details": f"{component} of layer {names[layer]} adds {value:.2f}",
        })  # fmt: skip
    table = pd.DataFrame(rows)
    columns = tuple(_NAMES[name] for name in sublayers)
    panels = [Panel("sublayers", names, columns, column_axis="")]
    for place, name in ((1, "heads"), (2, "heads of cross-attention")):
        columns_of = table.loc[table["panel"] == place, "column"]
        if len(columns_of):
            heads = tuple(map(str, range(columns_of.max() + 1)))
            panels.append(Panel(name, names, heads, column_axis="head"))
    outside = parts.loc[parts["layer"].isna()].set_index("component")["value"]
    total = outside["total"]
    outside = outside.loc[outside.index.isin(_OUTSIDE) & (outside.abs() >= 0.005)]
    whose = "sublayers of the decoder" if n_encoder else "sublayers"
    beside = [f"{v:.2f} from the {str(name).replace('_', ' ')}" for name, v in outside.items()]
    title = f"Direct logit attribution of {model_name(model)}: {answer!r} minus {wrong!r}"
    title += f", after {in_short(model, prompt, tokens)}"
    sources = ", ".join([*beside, f"{'the rest' if beside else 'all'} from the {whose}"])
    notes = [f"The logit difference is {total:.2f}: {sources}."]
    if n_encoder:
        notes.append(
            "The encoder's parts act through cross-attention: they are another way to split it."
        )
    return Grid(title, table, tuple(panels), "logit difference", SIGNED, tuple(notes))
