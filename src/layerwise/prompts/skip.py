"""Predictions of the model without each layer, sublayer or head."""

from __future__ import annotations

from typing import Annotated, Any

import pandas as pd
from annotated_types import Ge

from layerwise.analyses.ablation.spec import BY_HEAD, SITES, AblationSpec
from layerwise.analyses.arguments import check_arguments
from layerwise.ground.argument_types import Layers, Whole, known_name_validator
from layerwise.ground.layer_names import layer_name
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import n_encoder_layers
from layerwise.runs.setup import check_layers
from layerwise.sweep import Generate, intact, sweep
from layerwise.sweep.run import next_logprobs

from .drawing import Panel
from .grid import AMOUNT, SHARE, Grid
from .lens import TOP, model_name
from .texts import AnyPrompt, encode_prompt, in_short, readable, top_tokens_text

_PLACES = ("1st", "2nd", "3rd", "4th", "5th")
_NAMES = {"attn_out": "attention", "mlp_out": "MLP", "z": "head", "cross_z": "head of "
          "cross-attention", "cross_attn_out": "cross-attention"}  # fmt: skip


@check_arguments()
@exclusive
def skip_grid(
    model: LoadedModel,
    prompt: AnyPrompt,
    *,
    site: Annotated[str, known_name_validator("site to skip", SITES["skip"])] = "layer",
    layers: Layers | None = None,
    new_tokens: Annotated[Whole, Ge(0)] = 0,
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
    spec = AblationSpec.for_model(model, "skip", site, tuple(sorted(check_layers(layers, model))))
    changes = [intact(), *spec.same_cost_changes(model)]
    logprobs = next_logprobs(model, changes, tokens)
    probabilities = logprobs.exp()
    best = probabilities.topk(min(TOP, logprobs.shape[-1]))
    kl = (probabilities[0] * (logprobs[0] - logprobs)).sum(-1).clamp(min=0)
    answers: list[dict[str, Any]] = [
        {"kl": float(divergence), "top": readable(model, ids.tolist()),
         "top_probability": values.tolist()}
        for divergence, values, ids in zip(kl, best.values, best.indices, strict=True)
    ]  # fmt: skip
    texts: list[Any] = [None] * len(changes)
    if new_tokens:
        texts = sweep(model, changes, [Generate(tokens, new_tokens)]).outcomes
    details = []
    for answer, change, written in zip(answers, changes, texts, strict=True):
        words = f"{top_tokens_text(answer)}\nKL to the intact model {answer['kl']:.2f} nats"
        if new_tokens:
            answer["continuation"] = written[0].text
            words += f"\nwrites: {written[0].text!r}"
        answer |= {"layer": change.layer, "head": change.head, "panel": 0}
        details.append(words)
    asked = f"after {in_short(model, prompt, tokens)}"
    title = f"{model_name(model)} without each {_NAMES.get(site, site)}, {asked}"
    layers_skipped = list(dict.fromkeys(answer["layer"] for answer in answers[1:]))
    names = tuple(layer_name(layer, n_encoder_layers(model)) for layer in layers_skipped)
    if site in BY_HEAD:  # coloured by how far the next token's distribution moves
        usual = answers[0]["top"][0]
        rows = [
            {**answer, "row": layers_skipped.index(answer["layer"]), "column": answer["head"],
             "value": answer["kl"], "text": "" if answer["top"][0] == usual else answer["top"][0],
             "details": words}
            for answer, words in zip(answers[1:], details[1:], strict=True)
        ]  # fmt: skip
        columns = tuple(str(head) for head in range(1 + max(row["column"] for row in rows)))
        note = (
            f"Intact, the model says {top_tokens_text(answers[0])}. "
            "Cells name the next token where it changes."
        )
        panel = Panel("", names, columns, "layer", f"head ({asked})")
        unit = "KL to the intact model (nats)"
        return Grid(title, pd.DataFrame(rows), (panel,), unit, AMOUNT, (note,))
    rows = [
        {**answer, "row": row, "column": column, "value": value, "text": text, "details": words}
        for row, (answer, words) in enumerate(zip(answers, details, strict=True))
        for column, (text, value) in enumerate(
            zip(answer["top"], answer["top_probability"], strict=True)
        )
    ]  # fmt: skip
    columns = _PLACES[: len(answers[0]["top"])]
    panel = Panel("", ("intact", *names), columns, "without layer", f"next token {asked}")
    return Grid(title, pd.DataFrame(rows), (panel,), "probability", SHARE, upward=False)
