"""Predictions of each layer at each token of a prompt: the logit lens and the tuned lens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.shared.translators import AnyLens, TunedLens
from layerwise.errors import UserError
from layerwise.ground.argument_types import ExpectedWords, known_name_validator
from layerwise.ground.layer_names import stream_name
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.facts import model_facts, original_tokenizer
from layerwise.models.instance.kinds import Model, decoder_prefix, is_seq2seq, n_encoder_layers
from layerwise.sweep.activations.intact_run import Place, residuals_at
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.readout import final_logits
from layerwise.tasks._encoding import encode_pair

from .drawing import Panel, draw_lines
from .grid import AMOUNT, SHARE, SIGNED, Grid
from .texts import (
    Positions,
    Prompts,
    SomeTokens,
    encode_prompt,
    list_prompts,
    probability,
    readable,
    select_positions,
    single_token_id,
    top_tokens_text,
)

LENSES, COLORS = ("logit", "tuned"), ("probability", "rank", "log-probability")
SITES = ("resid_pre", "resid_mid", "resid_post")
MOST_COLUMNS = 48
TOP = 5
# Streams that are read at once: more would not fit a processor's cache.
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, eq=False, repr=False)
class LensGrid(Grid):
    """Next token that each layer would say.

    ``table`` has, beside ``Grid``'s columns, of each cell:
    ``prompt`` and ``position`` (from 0), ``token`` (the one read at), ``site``, ``layer`` (-1 is
    the embedding), ``top`` and ``top_probability`` (five tokens), ``entropy`` and ``kl`` from the
    model's own distribution (nats), and for each token that was chosen ``probability of ...``,
    ``log-probability of ...`` (nats) and ``rank of ...`` (0 is the top).
    """

    chosen: tuple[str, ...] = ()

    def difference(self) -> Grid:
        """Log-probability of the first chosen token in prompt 1, less that in prompt 0.

        Raises:
            UserError: unless there are two prompts of as many tokens, and a token was chosen.
        """
        sizes = [len(panel.columns) for panel in self.panels]
        if len(sizes) != 2 or sizes[0] != sizes[1] or not self.chosen:
            raise UserError(
                "A difference is between two prompts of as many tokens, for a chosen token: "
                f"expected that, and there are {len(sizes)} prompts of {sizes} tokens; read two."
            )
        name = f"log-probability of {self.chosen[0]}"
        first, second = (
            self.table.loc[self.table["prompt"] == i].reset_index(drop=True) for i in (0, 1)
        )
        both = list(zip(first[name], second[name], strict=True))
        table = first[["panel", "row", "column", "position", "site", "layer"]].assign(
            value=second[name] - first[name],
            text=[f"{b - a:.1f}" for a, b in both],
            details=[f"{name}: {a:.2f} and {b:.2f} nats" for a, b in both],
        )
        tokens = zip(*(panel.columns for panel in self.panels), strict=True)
        columns = ("/".join(dict.fromkeys(pair)) for pair in tokens)
        panel = replace(self.panels[0], name="", columns=tuple(columns))
        title = f"{self.title}: second prompt minus first"
        return Grid(title, table, (panel,), f"difference of {name} (nats)", SIGNED)

    def lines(
        self, position: int = -1, *, prompt: int = 0, width: float | str | None = None
    ) -> Figure:
        """Probabilities of the chosen tokens over the layers, at one position.

        Args:
            position: of the prompt, from 0; negative ones count from its end.
            prompt: which prompt, from 0.
            width: of the figure, in inches, or a text such as ``"84mm"``.

        Raises:
            UserError: if no token was chosen, or the position was not read.
        """
        if not self.chosen:
            raise UserError("No token was chosen: expected lens_grid(..., token=' Paris').")
        own = self.table.loc[self.table["prompt"] == prompt]
        known = sorted(set(own["position"]))
        if position < 0 and known:
            position += known[-1] + 1
        here = own.loc[own["position"] == position].sort_values("row")
        if here.empty:
            read = f"{known[0]} to {known[-1]}" if known else "none"
            raise UserError(
                f"Position {position} was not read: expected one of prompt {prompt} ({read})."
            )
        lines = {name: here[f"probability of {name}"] for name in self.chosen}
        names = [self.panels[prompt].rows[row] for row in here["row"]]
        title = f"at {here['token'].iloc[0]!r} (token {position})"
        return draw_lines(lines, names, "probability", title, width)


@check_arguments()
@exclusive
def lens_grid(
    model: LoadedModel,
    prompt: Prompts,
    *,
    token: SomeTokens | None = None,
    lens: Annotated[str, known_name_validator("lens", LENSES)] = "logit",
    tuned: AnyLens | None = None,
    site: Annotated[str, known_name_validator("site of the lens", SITES)] = "resid_post",
    positions: Positions | None = None,
    color: Annotated[str, known_name_validator("color", COLORS)] = "probability",
    target: Annotated[str, ExpectedWords("a text", "'Le chat'")] | None = None,
    chat: bool = False,
) -> LensGrid:
    """Show which token each layer leans to, at each token of a prompt.

    Every residual stream is read as if it were the last (nostalgebraist 2020, "interpreting GPT:
    the logit lens"), or through a trained affine map first (Belrose et al. 2023,
    arXiv:2303.08112). It is an illustration and claims nothing; ``logit_lens`` tests tasks.

    Args:
        model: the model.
        prompt: a text, token ids, or turns of a chat; or a list of texts, a panel each.
        token: one text or several, each one token of the vocabulary; colours then show the first.
        lens: ``logit`` or ``tuned``.
        tuned: a trained lens, its file or the folder of its run.
        site: ``resid_post`` leaves a layer, ``resid_mid`` stands between its attention and MLP.
        positions: which tokens of the prompt, from 0; ``"all"``; the last 48 if None.
        color: ``probability``, ``log-probability`` or ``rank`` of the token.
        target: of an encoder-decoder: what the decoder has written so far.
        chat: wrap the prompt in the tokenizer's chat template.

    Raises:
        UserError: for an empty prompt, a token that is several, or a lens of another model.

    Examples:
        >>> import layerwise as lw
        >>> model = lw.load_model("wired-decoder")
        >>> grid = lw.lens_grid(model, [5, 6, 7, 8])
        >>> len(grid.table) == 4 * (model.cfg.n_layers + 1)
        True
    """
    check_faithful(model)
    if color != "probability" and token is None:
        raise UserError(
            f"Colours by {color} are of a chosen token: expected token=, such as ' Paris'; name "
            "one, or leave color= out."
        )
    given = None if lens == "logit" else load_tuned_lens(model, tuned, site)
    followed: Any = [] if token is None else token  # a list, as it was read
    ids = [single_token_id(model, text) for text in followed]
    chosen = dict(zip(readable(model, ids), ids, strict=True))  # by their readable names
    prompts = list_prompts(prompt)
    tables, panels, notes = [], [], []
    for number, one in enumerate(prompts):
        tokens = encode_prompt(model, one, chat=chat)
        answer = _target(model, tokens, target)
        last = len(tokens) - 1
        every = range(last, last + 1 + len(answer)) if is_seq2seq(model) else range(len(tokens))
        at = select_positions(every, positions, every[-MOST_COLUMNS:])
        axis = "token that is read at"
        if positions is None and len(at) < len(every):
            notes.append(f"Shown are the last {MOST_COLUMNS} of {len(every)} tokens.")
            axis += f": the last {MOST_COLUMNS} of {len(every)}"
        places, names = _places(model, site)
        table, columns = _read_prompt(model, tokens, answer, at, places, given, chosen)
        name = repr(one) if len(prompts) > 1 else ""
        tables.append(table.assign(panel=number, prompt=number))
        panels.append(Panel(name, names, tuple(columns), column_axis=axis))
    table = pd.concat(tables, ignore_index=True)
    shown = f"{color} of {next(iter(chosen))}" if chosen else ""
    table = table.assign(
        value=(table[shown] if chosen else table["top_probability"].str[0]).astype(float),
        text=table["top"].str[0],
        details=[_details(row, tuple(chosen)) for row in table.to_dict("records")],
    )
    of = shown or "probability of the top token"
    return LensGrid(
        f"{'Tuned' if given else 'Logit'} lens of {model_name(model)}",
        table,
        tuple(panels),
        f"{of} (nats)" if color == "log-probability" else of,
        SHARE if color == "probability" else AMOUNT,
        tuple(notes),
        chosen=tuple(chosen),
    )


def model_name(model: Model) -> str:
    """Name of a model."""
    return str(model.cfg.model_name)


def load_tuned_lens(model: Model, tuned: Any, site: str) -> TunedLens:
    """A tuned lens of the model, given itself or by its path."""
    if tuned is None:
        raise UserError(
            "A tuned lens is to be read with and none was given: expected tuned=, from "
            "layerwise.train_lens(...) or its folder; train one, or use lens='logit'."
        )
    lens = tuned if isinstance(tuned, TunedLens) else TunedLens.load(tuned)
    lens.check(model_facts(model).hash, (site,), (model.cfg.n_layers, model.cfg.d_model))
    return lens


def _target(model: Model, tokens: Tokens, target: str | None) -> Tokens:
    """Text that follows a prompt in an encoder-decoder's decoder."""
    if target is None:
        return ()
    if not is_seq2seq(model):
        raise UserError(
            "A target is what an encoder-decoder's decoder has written, and this model has none: "
            "expected it as the end of the prompt; put it there."
        )
    tokenizer: Any = original_tokenizer(model)
    return encode_pair(tokenizer, "", target, tokens, apart=True)[1]


def _places(model: Model, site: str) -> tuple[list[Place], tuple[str, ...]]:
    """Places that are read, from the embedding on, and the names of their rows."""
    n_encoder, n_layers = n_encoder_layers(model), model.cfg.n_layers
    places, names = [("resid_post", n_encoder - 1)], ["embedding"]
    for layer in range(n_encoder, n_layers):
        places.append((site, layer))
        names.append(stream_name(layer, n_encoder, of_decoder=n_encoder > 0))
    if site != "resid_post":
        places.append(("resid_post", n_layers - 1))
        names.append("output")
    return places, tuple(names)


@torch.inference_mode()
def _read_prompt(
    model: Model,
    tokens: Tokens,
    answer: Tokens,
    at: Sequence[int],
    places: Sequence[Place],
    tuned: TunedLens | None,
    chosen: dict[str, int],
) -> tuple[pd.DataFrame, list[str]]:
    """The cells of one prompt, and the names of its columns."""
    n_prompt = [len(tokens)] if is_seq2seq(model) else None
    streams = residuals_at(model, [(*tokens, *answer)], [at], places, n_prompt=n_prompt)
    # In an encoder-decoder its decoder is read, at what it begins with and what it has written.
    under = tokens
    if n_prompt is not None:
        under = (*tokens[:-1], *decoder_prefix(model)[-1:], *answer)
    columns = readable(model, [under[i] for i in at])
    if tuned is not None:
        pairs = zip(places[:-1], streams[:-1], strict=True)
        translated = [tuned.translate(place, stream) for place, stream in pairs]
        streams = torch.stack([*translated, streams[-1]])
    first = at[0] if n_prompt else 0
    read = zip(range(len(at)), (position - first for position in at), columns, strict=True)
    named = pd.DataFrame(
        [(row, *token, *place) for (row, place), token in product(enumerate(places), read)],
        columns=["row", "column", "position", "token", "site", "layer"],
    )
    return named.join(_cells(model, streams, chosen)), columns


def _cells(
    model: Model, streams: Float[torch.Tensor, "place read d_model"], chosen: dict[str, int]
) -> pd.DataFrame:
    """Readings of residual streams, of which the last are the model's own: a row each."""
    final = final_logits(model, streams[-1]).log_softmax(-1)
    usual, tables = final.exp(), []
    # Several layers at once: for a few rows, most of the time goes to reading the weights.
    for part in streams.split(max(1, _ROWS_AT_ONCE // len(final))):
        logprobs = (
            final_logits(model, part.flatten(0, 1)).log_softmax(-1).unflatten(0, part.shape[:2])
        )
        # Over a large vocabulary einsum would lose digits that a sum in pairs keeps.
        entropy = -(logprobs.exp() * logprobs).sum(-1).flatten()
        kl = (usual * (final - logprobs)).sum(-1).clamp(min=0).flatten()
        logprobs = logprobs.flatten(0, 1)
        best = logprobs.topk(min(TOP, logprobs.shape[-1]))
        texts = iter(readable(model, best.indices.flatten().tolist()))
        cells = {
            "top": list(map(list, zip(*[texts] * best.indices.shape[1], strict=True))),
            "top_probability": best.values.exp().tolist(),
            "entropy": entropy.tolist(),
            "kl": kl.tolist(),
        }
        for name, token in chosen.items():
            of = logprobs[:, token]
            cells[f"probability of {name}"] = list(map(math.exp, of.tolist()))
            cells[f"log-probability of {name}"] = of.tolist()
            cells[f"rank of {name}"] = (logprobs > of[:, None]).sum(-1).tolist()
        tables.append(pd.DataFrame(cells))
    return pd.concat(tables, ignore_index=True)


def _details(row: dict[str, Any], chosen: tuple[str, ...]) -> str:
    """Text under the pointer."""
    followed = [
        f"{name}: {probability(row[f'probability of {name}'])}, rank {row[f'rank of {name}']}"
        for name in chosen
    ]
    numbers = f"entropy {row['entropy']:.2f} nats, KL to the output {row['kl']:.2f} nats"
    return "\n".join([top_tokens_text(row), *followed, numbers])
