"""Trained translators of a tuned lens: an affine map for each depth, in and out of a file.

How they are trained is in ``training``; how they are read with, in ``logit_lens.job``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from layerwise.errors import UserError, shown
from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.written import LENS_FILE as FILE
from layerwise.sweep.activations.intact_run import Place

_FACTS, _CHECKSUM = "layerwise.tuned_lens", "layerwise.sha256"
_NEEDED = ("model", "model_hash")
# Of the metadata of a file that is none of ours; the facts of a lens take some hundred bytes.
_MOST_FACTS = 2**20


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

    def check(
        self, model_hash: str, sites: tuple[str, ...], shape: tuple[int, int] | None = None
    ) -> None:
        """Refuse to read another model, or between the places that it was trained for."""
        if self.facts["model_hash"] != model_hash:
            raise UserError(
                f"This tuned lens was trained on {self.facts['model']!r} with weights "
                f"{self.facts['model_hash'][:12]}, and the model has {model_hash[:12]}; expected "
                "the same weights in the same number format, so train a lens for this model."
            )
        if shape is not None and shape != tuple(self.bias.shape):
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
        """Write it as safetensors, with its facts in the metadata."""
        from safetensors.torch import save

        facts = json.dumps(self.facts)
        metadata = {_FACTS: facts, _CHECKSUM: _checksum(self.hash, facts)}
        write_atomically(Path(path), _in_order(save(self._tensors(), metadata=metadata)))

    @classmethod
    def load(cls, path: str | Path) -> TunedLens:
        """Read it from its file, or from the folder of the run that trained it.

        The translators and facts are compared with the checksum in the file. A file of a version
        that wrote none is read without; everything else about it is checked all the same.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        try:
            file = path / FILE if path.is_dir() else path
            if not file.is_file():
                raise FileNotFoundError(file)
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                text = metadata[_FACTS]
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            facts: Any = json.loads(text) if len(text) <= _MOST_FACTS else None
        except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is missing, damaged or not a tuned lens: expected a file that layerwise "
                "wrote when it trained one; train it again."
            ) from error
        _refuse_odd(file, tensors, facts)
        lens = cls(tensors.get("weight"), tensors["bias"], facts)
        if metadata.keys() - {_FACTS, _CHECKSUM}:  # the checksum may be there under a damaged name
            raise _odd(file, f"has other metadata ({', '.join(sorted(metadata))[:80]!r})")
        if _CHECKSUM in metadata and metadata[_CHECKSUM] != _checksum(lens.hash, text):
            raise _odd(file, "was changed since it was written: its checksum differs")
        return lens

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {"bias": self.bias.detach().cpu().contiguous()}
        if self.weight is not None:
            tensors["weight"] = self.weight.detach().cpu().contiguous()
        return tensors


def _refuse_odd(file: Path, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
    """Refuse what no training gives."""
    if not {"bias"} <= tensors.keys() <= {"bias", "weight"}:
        raise _odd(file, f"has the tensors {shown(sorted(tensors))}; expected bias and weight")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise _odd(file, f"has its {name} in {kind}; expected float32")
        if not tensor.isfinite().all():
            raise _odd(file, f"has NaN or infinity in its {name}; expected finite numbers")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    bias = shapes["bias"]
    if len(bias) != 2 or 0 in bias or shapes.get("weight") not in (None, (*bias, bias[-1])):
        raise _odd(
            file,
            f"has tensors of the shapes {shapes}; expected (depths, width) and (depths, width, "
            "width), none of them 0",
        )
    if not isinstance(facts, dict) or not all(isinstance(facts.get(key), str) for key in _NEEDED):
        raise _odd(file, "does not tell which model it was trained on; expected its name and hash")


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata in alphabetical order; the library has none."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def _checksum(digest: str, facts: str) -> str:
    """SHA-256 (hex) over the translators' own and the facts as they are written."""
    return hashlib.sha256(f"{digest} {facts}".encode("utf-8", "surrogatepass")).hexdigest()


def _odd(file: Path, what: str) -> UserError:
    return UserError(f"The tuned lens {file} {what}; train it again.")
