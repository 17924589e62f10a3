"""What the model would say without each layer, sublayer or head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.spec import BY_HEAD, SITES, AblationSpec
from layerwise.analyses.arguments import check_arguments
from layerwise.ground.layer_names import layer_name
from layerwise.ground.readers import numbers, one_of
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import Model, n_encoder_layers
from layerwise.runs.setup import check_layers
from layerwise.sweep import Generate, Generated, intact, sweep
from layerwise.sweep.run import next_logprobs

from .cells import AMOUNT, SHARE, Panel
from .grid import Grid
from .lens import TOP, called
from .texts import Prompt, encode_prompt, most_likely, new_tokens, prompt, readable

_PLACES = ("1st", "2nd", "3rd", "4th", "5th")
_NAMES = {"attn_out": "attention", "mlp_out": "MLP", "z": "head", "cross_z": "head of "
          "cross-attention", "cross_attn_out": "cross-attention"}  # fmt: skip


@check_arguments(
    prompt=prompt, site=one_of("site to skip", SITES["skip"]), new_tokens=new_tokens,
    layers=numbers("[0, 3]", names=True),
)  # fmt: skip
@exclusive
def skip_grid(
    model: Model,
    prompt: Prompt,
    *,
    site: str = "layer",
    layers: Sequence[int | str] | None = None,
    new_tokens: int = 0,
    chat: bool = False,
) -> Grid:
    """Show the likely next tokens without each layer, or each attention, MLP or head.

    One walk through the layers answers all of them, as in ``ablate``. It is an illustration and
    claims nothing; ``ablate`` tests tasks.

    Args:
        model: the model.
        prompt: a text, token ids, or turns of a chat.
        site: ``layer``, ``attn_out``, ``mlp_out`` or ``z`` (each head); of an encoder-decoder
            also ``cross_attn_out`` and ``cross_z``.
        layers: which layers; all if None.
        new_tokens: also write a text of so many tokens without each of them (greedy).
        chat: wrap the prompt in the tokenizer's chat template.

    Returns:
        A row per layer, with the five most likely next tokens; of heads, a cell each with the
        divergence. ``table`` has ``layer``, ``head``, ``kl`` (from the intact model, nats),
        ``top``, ``top_probability`` and, if asked for, ``continuation``.

    Raises:
        UserError: for an empty prompt, or a site that the model does not have.

    Examples:
        >>> import layerwise as lw
        >>> model = lw.load_model("wired-decoder")
        >>> lw.skip_grid(model, [5, 6, 7, 8]).table["row"].nunique() == model.cfg.n_layers + 1
        True
    """
    tokens = encode_prompt(model, prompt, chat=chat)
    spec = AblationSpec.of(model, "skip", site, tuple(sorted(check_layers(layers, model))))
    changes = [intact(), *spec.like(model)]
    logprobs = next_logprobs(model, changes, tokens)
    probabilities = logprobs.exp()
    best = probabilities.topk(min(TOP, logprobs.shape[-1]))
    kl = (probabilities[0] * (logprobs[0] - logprobs)).sum(-1).clamp(min=0)
    seen: list[dict[str, Any]] = [
        {"kl": float(divergence), "top": readable(model, ids.tolist()),
         "top_probability": values.tolist()}
        for divergence, values, ids in zip(kl, best.values, best.indices, strict=True)
    ]  # fmt: skip
    if new_tokens:
        outcomes = sweep(model, changes, [Generate(tokens, new_tokens)]).outcomes
        for one, (text,) in zip(seen, outcomes, strict=True):
            assert isinstance(text, Generated)
            one["continuation"] = text.text
    n_encoder, details = n_encoder_layers(model), []
    for one, change in zip(seen, changes, strict=True):
        one |= {"layer": change.layer, "head": change.head, "panel": 0}
        written = f"\nwrites: {one['continuation']!r}" if new_tokens else ""
        details.append(f"{most_likely(one)}\nKL to the intact model {one['kl']:.2f} nats{written}")
    title = f"{called(model)} without each {_NAMES.get(site, site)}"
    skipped: list[Any] = [change.layer for change in changes[1:]]
    if site in BY_HEAD:  # coloured by how far the next token's distribution moves
        usual, places = seen[0]["top"][0], sorted(set(skipped))
        rows = [
            {**one, "row": places.index(one["layer"]), "column": one["head"], "value": one["kl"],
             "text": "" if one["top"][0] == usual else one["top"][0], "details": words}
            for one, words in zip(seen[1:], details[1:], strict=True)
        ]  # fmt: skip
        columns = tuple(str(head) for head in range(1 + max(row["column"] for row in rows)))
        names = tuple(layer_name(layer, n_encoder) for layer in places)
        note = (
            f"Intact, the model says {most_likely(seen[0])}. "
            "Cells name the next token where it changes."
        )
        panel = Panel("", names, columns, "layer", "head")
        unit = "KL to the intact model (nats)"
        return Grid(title, pd.DataFrame(rows), (panel,), unit, AMOUNT, (note,))
    rows = [
        {**one, "row": row, "column": column, "value": value, "text": text, "details": words}
        for row, (one, words) in enumerate(zip(seen, details, strict=True))
        for column, (text, value) in enumerate(
            zip(one["top"], one["top_probability"], strict=True)
        )
    ]  # fmt: skip
    names = ("intact", *(layer_name(layer, n_encoder) for layer in skipped))
    panel = Panel("", names, _PLACES[: len(seen[0]["top"])], "without layer", "next token")
    return Grid(title, pd.DataFrame(rows), (panel,), "probability", SHARE, upward=False)
