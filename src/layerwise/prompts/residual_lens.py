"""Lens over one's own residual streams: logits of any layer, as a function of tensors.

``lens_grid`` draws a prompt with the same numbers; ``logit_lens`` tests tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from layerwise.analyses.shared.translators import AnyLens, TunedLens
from layerwise.errors import UserError, short_repr
from layerwise.ground.arguments import check_arguments
from layerwise.ground.layer_names import layer_number, stream_name
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import model_lock
from layerwise.models.instance.kinds import Model, n_encoder_layers
from layerwise.sweep.checks.faithful import refuse_states
from layerwise.sweep.walk.readout import final_logits

from .lens import lens_grid, load_tuned_lens
from .texts import Positions, Prompt, SomeTokens

_DRAWN = ("panel", "row", "column", "prompt", "site", "value", "text", "details")
"""Columns that only a picture needs."""


class LogitLens:
    """Logit lens or tuned lens of a model, over residual streams of one's own.

    It reads a residual stream as if it were the last, with the model's own final norm,
    unembedding and soft-cap (nostalgebraist 2020, "interpreting GPT: the logit lens"). With
    ``tuned`` a trained affine map of the layer comes first (Belrose et al. 2023,
    arXiv:2303.08112).

    Attributes:
        model: the model.
        tuned: the trained maps; None for the plain logit lens.

    Examples:
        >>> import torch
        >>> import layerwise as lw
        >>> model = lw.load_model("wired-decoder")
        >>> lens = lw.LogitLens(model)
        >>> tokens = torch.tensor([[5, 6, 7, 8]])
        >>> logits, cache = model.run_with_cache(tokens)
        >>> last = model.cfg.n_layers - 1
        >>> read = lens(cache[f"blocks.{last}.hook_resid_post"], last)
        >>> read.shape == logits.shape and torch.allclose(read, logits, atol=1e-4)
        True
        >>> lens.trajectory([5, 6, 7, 8]).columns.tolist()
        ['position', 'token', 'layer', 'top', 'top_probability', 'entropy', 'kl']
    """

    def __init__(self, model: LoadedModel, tuned: AnyLens | None = None) -> None:
        """Take a model, and the maps of a tuned lens that was trained on it.

        Args:
            model: the model.
            tuned: what ``train_lens`` trained: its ``lens``, its file or the folder of its run;
                None for the logit lens.

        Raises:
            UserError: if the model has no weights, or the tuned lens is of another model.
        """
        self.model: Model
        self.tuned: TunedLens | None
        self.model, self.tuned = _read(model, tuned)

    def __call__(
        self, resid: Float[torch.Tensor, "*batch d_model"], layer: int | str
    ) -> Float[torch.Tensor, "*batch d_vocab"]:
        """Logits of the next token, from residual streams after a layer (``resid_post``).

        Gradients reach ``resid``. Streams in another number format, or on another device, are
        taken to the model's.

        Args:
            resid: residual streams, with any dimensions before the last one.
            layer: the layer that they leave, in the order of computation or as
                ``"decoder.3"``; the layer before the first (-1, in an encoder-decoder the last of
                the encoder) stands for the embedding. Of an encoder-decoder the decoder is read.

        Returns:
            Logits in float32, with the same dimensions before the last one.

        Raises:
            UserError: if the streams have another width than the model's, or it has no such layer.
        """
        number = self._layer(layer)
        width = self.model.cfg.d_model
        if resid.shape[-1:] != (width,) or not resid.is_floating_point():
            raise UserError(
                f"The residual streams are of shape {list(resid.shape)} and type "
                f"{str(resid.dtype).removeprefix('torch.')}: expected numbers with a point whose "
                f"last dimension is the model's width, {width}; take resid_post of a layer."
            )
        # A stream that was recorded in inference mode can have no gradient.
        mode = torch.inference_mode() if resid.is_inference() else nullcontext()
        with model_lock(self.model), mode:
            rows = resid.reshape(-1, width).to(self.model.W_E)
            if self.tuned is not None:
                rows = self.tuned.translate(("resid_post", number), rows)
            return final_logits(self.model, rows).reshape(*resid.shape[:-1], -1)

    def trajectory(
        self,
        prompt: Prompt,
        *,
        token: SomeTokens | None = None,
        positions: Positions | None = "all",
        target: str | None = None,
        chat: bool = False,
    ) -> pd.DataFrame:
        """Table of what each layer would say next, at each token of a prompt.

        Args:
            prompt: a text, token ids, or turns of a chat.
            token: tokens to follow, each as a text or an id.
            positions: which tokens of the prompt, from 0; ``"all"``.
            target: of an encoder-decoder: what the decoder has written so far.
            chat: wrap the prompt in the tokenizer's chat template.

        Returns:
            A row for each layer and position: ``position`` (from 0), ``token`` (the one read at),
            ``layer`` (the one before the first is the embedding), ``top`` and
            ``top_probability`` (five tokens, as lists), ``entropy`` and ``kl`` from the model's
            own distribution (nats), and of each followed token ``probability of ...``,
            ``log-probability of ...`` (nats) and ``rank of ...`` (0 is the top).

        Raises:
            UserError: as ``lens_grid`` does.
        """
        how: dict[str, Any] = {} if self.tuned is None else {"lens": "tuned", "tuned": self.tuned}
        grid = lens_grid(
            self.model, prompt, token=token, positions=positions, target=target, chat=chat, **how
        )
        return grid.table.drop(columns=[*_DRAWN])

    def __repr__(self) -> str:
        kind = "logit" if self.tuned is None else "tuned"
        return f"LogitLens({self.model.cfg.model_name}, {kind})"

    def _layer(self, layer: int | str) -> int:
        """Number of a layer whose stream can be read."""
        n_encoder, n_layers = n_encoder_layers(self.model), self.model.cfg.n_layers
        if isinstance(layer, str):
            layer = layer_number(layer, n_encoder, n_layers)
        known: Sequence[int] = range(n_encoder - 1, n_layers)
        if isinstance(layer, bool) or layer not in known:
            first = stream_name(n_encoder - 1, n_encoder, of_decoder=n_encoder > 0)
            raise UserError(
                f"Layer {short_repr(layer)} cannot be read by the lens: expected one of "
                f"{known[0]} ({first}) to {known[-1]}; streams of an encoder are read by the "
                "decoder alone."
            )
        return int(layer)


@check_arguments()
def _read(model: LoadedModel, tuned: AnyLens | None) -> tuple[Model, TunedLens | None]:
    """A model and a tuned lens, read and compared."""
    refuse_states(model)
    return model, None if tuned is None else load_tuned_lens(model, tuned, "resid_post")
