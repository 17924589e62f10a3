"""What each part of the model adds to the difference between two next tokens."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.attribution.job import Question, read_parts
from layerwise.ground.layer_names import layer_name
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, n_encoder_layers

from .cells import SIGNED, Panel
from .grid import Grid
from .lens import called
from .reading import prompt, token
from .texts import Prompt, answers_of, encode_prompt

_OUTSIDE = ("embedding", "norm_bias", "unembed_bias")
_SUBLAYERS = ("attn_out", "cross_attn_out", "mlp_out", "norm_bias")
_NAMES = {"attn_out": "attention", "cross_attn_out": "cross-attention", "mlp_out": "MLP",
          "norm_bias": "norm's bias"}  # fmt: skip


@check_arguments(prompt=prompt, answer=token, wrong=token)
@exclusive
def attribute(
    model: Model,
    prompt: Prompt,
    answer: str | int,
    wrong: str | int,
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
    right, other = answers_of(model, answer, wrong)
    parts, _ = read_parts(model, [Question("prompt", tokens, right, (other,))])
    shares = parts.loc[parts["metric"] == "logit_diff"]
    n_encoder = n_encoder_layers(model)
    known = set(shares.loc[shares["layer"].notna(), "component"])
    present = [name for name in _SUBLAYERS if name in known]
    rows: list[dict[str, Any]] = []
    for row in shares.to_dict("records"):
        component, value = str(row["component"]), float(row["value"])
        head = row["head"]
        if pd.isna(row["layer"]):
            continue
        if component in present:
            place = {"panel": 0, "column": present.index(component)}
        elif component in ("z", "cross_z") and not pd.isna(head):
            place = {"panel": 1 if component == "z" else 2, "column": int(head)}
        else:
            continue
        layer = int(row["layer"])
        rows.append({
            **place, "row": layer, "layer": layer, "head": None if pd.isna(head) else int(head),
            "component": component, "value": value,
            "text": f"{value:.1f}" if abs(value) >= 0.05 else "",
            "details": f"{component} of layer {layer_name(layer, n_encoder)} adds {value:.2f}",
        })  # fmt: skip
    table = pd.DataFrame(rows)
    names = tuple(layer_name(layer, n_encoder) for layer in range(model.cfg.n_layers))
    columns = tuple(_NAMES[name] for name in present)
    panels = [Panel("sublayers", names, columns, column_axis="")]
    for place, name in ((1, "heads"), (2, "heads of cross-attention")):
        columns_of = table.loc[table["panel"] == place, "column"].tolist()
        if columns_of:
            n_heads = max(columns_of) + 1
            panels.append(Panel(name, names, tuple(map(str, range(n_heads))), column_axis="head"))
    total = float(shares.loc[shares["component"] == "total", "value"].iloc[0])
    alone = shares.loc[shares["layer"].isna() & shares["component"].isin(_OUTSIDE)]
    outside = dict(zip(alone["component"], alone["value"], strict=True))
    outside = {name: value for name, value in outside.items() if abs(value) >= 0.005}
    whose = "sublayers of the decoder" if n_encoder else "sublayers"
    beside = [f"{value:.2f} from the {name.replace('_', ' ')}" for name, value in outside.items()]
    title = f"Direct logit attribution of {called(model)}: {answer!r} minus {wrong!r}"
    sources = ", ".join([*beside, f"{'the rest' if beside else 'all'} from the {whose}"])
    notes = [f"The logit difference is {total:.2f}: {sources}."]
    if n_encoder:
        notes.append(
            "The encoder's parts act through cross-attention: they are another way to split it."
        )
    return Grid(title, table, tuple(panels), "logit difference", SIGNED, tuple(notes))
