"""Trained translators of a tuned lens: an affine map for each depth, in and out of a file.

How they are trained is in ``_lens_training``; how they are read with, in ``_lens_job``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from layerwise._files import write_atomically
from layerwise._written import LENS_FILE as FILE
from layerwise.errors import UserError
from layerwise.sweep.intact_run import Place

_FACTS = "layerwise.tuned_lens"


@dataclass(frozen=True, eq=False)
class TunedLens:
    """An affine translator for the residual stream at each depth but the last of a stack.

    Depth k is what enters layer k, in the order of computation; in an encoder-decoder that is the
    embedding of the decoder where k is the decoder's first layer. The translated stream is
    ``x + weight x + bias``; at the last depth it is x itself.

    Attributes:
        weight: what is added to the identity; None where only biases were trained.
        bias: what is added to it.
        facts: ``model``, ``model_hash``, ``text_hash``, ``seed`` and the settings of training.
    """

    weight: Float[torch.Tensor, "depth d_model d_model"] | None
    bias: Float[torch.Tensor, "depth d_model"]
    facts: dict[str, Any]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over the translators."""
        digest = hashlib.sha256()
        for tensor in self._tensors().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def translate(
        self, place: Place, resid: Float[torch.Tensor, "read d_model"]
    ) -> Float[torch.Tensor, "read d_model"]:
        """Residual streams of a place, as the last layer of its stack would have them.

        Of an encoder-decoder, ``resid_post`` of the encoder's last layer stands for what enters
        the decoder.
        """
        site, layer = place
        depth = layer if site == "resid_pre" else layer + 1
        if depth == len(self.bias):
            return resid
        x = resid.float()
        y = x + self.bias[depth].to(x.device)
        if self.weight is not None:
            y = y + x @ self.weight[depth].to(x.device).T
        return y.to(resid.dtype)

    def check(self, model_hash: str, sites: tuple[str, ...]) -> None:
        """Refuse to read another model, or between the places that it was trained for.

        Raises:
            UserError: if the weights differ from those that it was trained on, or a site is
                ``resid_mid``.
        """
        if self.facts["model_hash"] != model_hash:
            raise UserError(
                f"This tuned lens was trained on {self.facts['model']!r} with weights "
                f"{self.facts['model_hash'][:12]}, and the model has {model_hash[:12]}; expected "
                "the same weights in the same number format, so train a lens for this model."
            )
        if "resid_mid" in sites:
            raise UserError(
                "The tuned lens has translators for what enters and leaves a layer, not for "
                "resid_mid; read resid_pre or resid_post, or use the logit lens."
            )

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, with its facts in the metadata.

        Raises:
            UserError: if the file cannot be written.
        """
        from safetensors.torch import save

        content = save(self._tensors(), metadata={_FACTS: json.dumps(self.facts)})
        write_atomically(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> TunedLens:
        """Read it from its file, or from the folder of the run that trained it.

        Raises:
            UserError: if there is no such file, or it is something else.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        file = path / FILE if path.is_dir() else path
        try:
            with safe_open(file, "pt") as opened:
                facts = json.loads((opened.metadata() or {})[_FACTS])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return cls(tensors.get("weight"), tensors["bias"], facts)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(
                f"{file} is missing, damaged or not a tuned lens: expected a file that layerwise "
                "wrote when it trained one; train it again."
            ) from error

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = {"bias": self.bias.detach().cpu().contiguous()}
        if self.weight is not None:
            found["weight"] = self.weight.detach().cpu().contiguous()
        return found
