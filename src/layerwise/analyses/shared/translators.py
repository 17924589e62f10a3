"""Trained translators of a tuned lens: an affine map for each depth, in and out of a file.

How they are trained is in ``tuned_lens.training``; how they are read with, in ``logit_lens.job``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float

from layerwise.errors import UserError
from layerwise.ground.readers import Reads, path
from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.places import refuse_foreign
from layerwise.storage.provenance import listed_files
from layerwise.storage.written import LENS_FILE as FILE
from layerwise.sweep.activations.intact_run import Place

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

        ``resid_post`` of an encoder's last layer stands for what enters the decoder.
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

    def check(self, model_hash: str, sites: tuple[str, ...], shape: tuple[int, int]) -> None:
        """Refuse to read another model, or between the places that it was trained for."""
        if self.facts["model_hash"] != model_hash:
            raise UserError(
                f"This tuned lens was trained on {self.facts['model']!r} with weights "
                f"{self.facts['model_hash'][:12]}, and the model has {model_hash[:12]}; expected "
                "the same weights in the same number format, so train a lens for this model."
            )
        if shape != tuple(self.bias.shape):
            raise UserError(
                f"This tuned lens has {self.bias.shape[0]} depths of width {self.bias.shape[1]}, "
                f"and the model has {shape[0]} of {shape[1]}: expected one for each layer; train "
                "it again."
            )
        if "resid_mid" in sites:
            raise UserError(
                "The tuned lens has translators for what enters and leaves a layer, not for "
                "resid_mid; read resid_pre or resid_post, or use the logit lens."
            )

    def save(self, path: str | Path) -> None:
        """Write it as safetensors, with its facts and a checksum in the metadata.

        Raises:
            UserError: if another file than a tuned lens, or the lens of a run, is there; if it
                cannot be written, or the disk is full.
        """
        refuse_foreign(Path(path), "free-standing tuned lens", _is_free)
        self.write(Path(path))

    def write(self, path: Path) -> None:
        """Write it as ``save`` does, over whatever is there."""
        from safetensors.torch import save

        tensors = self._tensors()
        # In one entry: of several the library keeps no order.
        noted = json.dumps([self.facts, _checksum(tensors, self.facts)])
        write_atomically(path, save(tensors, metadata={_FACTS: noted}))

    @classmethod
    def load(cls, path: str | Path) -> TunedLens:
        """Read it from its file, or from the folder of the run that trained it."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        try:
            file = path / FILE if path.is_dir() else path
            if not file.is_file():
                raise FileNotFoundError(file)
            with safe_open(file, "pt") as opened:
                facts, checksum = json.loads(opened.metadata()[_FACTS])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if checksum != _checksum(tensors, facts):
                raise ValueError("the checksum differs")
            return cls(tensors.get("weight"), tensors["bias"], facts)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is missing, damaged or not a tuned lens: expected a file, as it was, that "
                "layerwise wrote when it trained one; train it again."
            ) from error

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {"bias": self.bias.detach().cpu().contiguous()}
        if self.weight is not None:
            tensors["weight"] = self.weight.detach().cpu().contiguous()
        return tensors


def _is_free(path: Path) -> bool:
    """True if a file is a tuned lens, and no run lists it."""
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        return _FACTS in (opened.metadata() or {}) and path.name not in (
            listed_files(path.parent) or {}
        )


def _checksum(tensors: dict[str, torch.Tensor], facts: Any) -> str:
    """SHA-256 (hex) over the translators, their shapes and number formats, and the facts."""
    from safetensors.torch import save

    return hashlib.sha256(save(tensors) + json.dumps(facts).encode()).hexdigest()


def read_lens(name: str, value: Any) -> Any:
    """Read a tuned lens, or the path of one."""
    return value if isinstance(value, TunedLens) else path(name, value)


AnyLens = Annotated[TunedLens | str | Path, Reads(read_lens, "TunedLens | str | Path")]
