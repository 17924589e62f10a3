"""The parity check: does the hooked model say what its original says.

The comparison is one number, the largest difference of log-probabilities on a fixed text. Where it
is not small, float64 tells rounding from a wrong conversion. The record of an earlier check saves
doing it again for the same files and versions.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError, one_line
from layerwise.models.files.cache import folder_sha256, read_record, record_key, write_record
from layerwise.models.huggingface.parity_text import TEXT, Text
from layerwise.models.instance.kinds import DecoderOnly, Model
from layerwise.models.instance.loaded import TRANSFORMER_LENS
from layerwise.models.seq2seq.model import Seq2SeqModel

from .rounding import MULTIPLE, StayFloat64, disturbances

TOLERANCE = 1e-3
"""Largest difference accepted in float32 without asking how much of it is rounding, in nats."""

ABSURD = 10.0
"""Largest difference accepted in a reduced number format, in nats."""
_KIND = "checks"
# Batch and pos, which differ from one member of a list to the next.
LogProbs = Float[torch.Tensor, "_ _ d_vocab"]


@dataclass(frozen=True)
class Check:
    """The outcome of a check that was passed."""

    parity: float  # largest difference of log-probabilities, in nats
    hash: str  # hash of the hooked model's weights


class NotItsOriginal(UserError):
    """A hooked model's log-probabilities differ from its original's."""


def check_key(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    backend: str = TRANSFORMER_LENS,
    others: Sequence[str] = (),
) -> str:
    """Key of a check's outcome: files, versions, format, device, text, limits, backend."""
    packages = ("layerwise", "torch", "transformers", "transformer-lens")
    versions = (metadata.version(name) for name in packages)
    limits = f"{TOLERANCE} {MULTIPLE} {ABSURD}"
    how = [*([] if backend == TRANSFORMER_LENS else [backend]), *others]
    return record_key(
        [folder_sha256(folder), *versions, str(dtype), device.type, TEXT, limits, *how]
    )


def recorded_check(key: str) -> Check | None:
    """The outcome of an earlier check, or None."""
    record = read_record(_KIND, key) or {}
    parity, digest = record.get("parity"), record.get("hash")
    if isinstance(parity, float) and isinstance(digest, str):
        return Check(parity, digest)
    return None


def record_check(key: str, check: Check) -> None:
    """Remember the outcome of a check."""
    write_record(_KIND, key, {"parity": check.parity, "hash": check.hash})


@torch.inference_mode()
def reference(original: PreTrainedModel, texts: list[Text]) -> list[LogProbs]:
    """Log-probabilities of an original, on the device where it lies, for some texts."""
    # One at a time: with a large vocabulary all logits together are a good part of the weights.
    said = []
    for text in texts:
        inputs = {name: tensor.to(original.device) for name, tensor in text.items()}
        said.append(to_logprobs(original(**inputs, use_cache=False).logits))
    return said


def to_logprobs(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities on the CPU, in float32 at least."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(-1).cpu()


@torch.inference_mode()
def largest_difference(model: Model, expected: list[LogProbs], texts: list[Text]) -> float:
    """Largest difference of log-probabilities from ``expected``, in nats; NaN makes it infinite."""
    return farthest((to_logprobs(_logits(model, text)) for text in texts), expected)


def _logits(model: Model, text: Text) -> torch.Tensor:
    inputs = {name: tensor.to(model.W_E.device) for name, tensor in text.items()}
    if isinstance(model, Seq2SeqModel):
        mask = inputs["attention_mask"].bool()
        return model(inputs["input_ids"], inputs["decoder_input_ids"], mask)
    return model(inputs["input_ids"])


def farthest(given: Iterable[LogProbs], expected: list[LogProbs]) -> float:
    """Largest difference of two sides' log-probabilities, in nats; NaN makes it infinite."""
    pairs = zip(given, expected, strict=True)
    gaps = [(logprobs - other).abs().max().item() for logprobs, other in pairs]
    return math.inf if any(map(math.isnan, gaps)) else max(gaps)


@dataclass(frozen=True)
class Exact:
    """An original's log-probabilities in float64, and its rounding error in float32."""

    logprobs: list[LogProbs]  # of the original in float64, for each of the texts
    # Largest difference from them, in nats, of the original in float32, as it is and with weights
    # disturbed in their last bit.
    rounding: float

    @property
    def limit(self) -> float:
        """Distance from float64, in nats, that a hooked model may have."""
        return max(TOLERANCE, MULTIPLE * self.rounding)


def exact(original: PreTrainedModel, say: Callable[[PreTrainedModel], list[LogProbs]]) -> Exact:
    """The original computed in float64, which needs memory for a copy of it in that format."""
    wide: Any = copy.deepcopy(original)
    wide.to("cpu", torch.float64)
    # The faster way through experts knows no float64.
    wide.set_experts_implementation("eager")
    with StayFloat64():
        truth = say(wide)
    del wide
    rounded = chain([original], disturbances(original))
    return Exact(truth, max(farthest(say(network), truth) for network in rounded))


@contextlib.contextmanager
def refuse_crash(name: str) -> Iterator[None]:
    """Turn a crash of the compared models into one sentence."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"Model {name!r} does not run ({type(error).__name__}: {one_line(error)}): expected "
            "log-probabilities of a short text; correct its config.json or its tokenizer's files, "
            "or use another model."
        ) from error


def check_parity(
    name: str,
    model: Model,
    expected: list[LogProbs],
    texts: list[Text],
    reload: Callable[[], PreTrainedModel],
) -> float:
    """Largest difference of a hooked model from what its original says, if it is small enough."""
    # ``reload`` gives the original once more, where rounding is in question.
    with refuse_crash(name):
        difference = largest_difference(model, expected, texts)
    dtype = model.W_E.dtype
    limit = TOLERANCE if dtype == torch.float32 else ABSURD
    if difference <= limit:
        return difference
    refusal = (
        f"The hooked copy of {name!r} is not its original in {str(dtype).removeprefix('torch.')}: "
        f"log-probabilities differ by up to {difference:.3g} nats"
    )
    if dtype != torch.float32 or math.isinf(difference):
        raise NotItsOriginal(f"{refusal}, expected at most {limit:g}; use another model.")
    truth = exact(reload(), lambda network: reference(network, texts))
    distance = largest_difference(model, truth.logprobs, texts)
    if not distance <= truth.limit or math.isinf(distance):
        raise NotItsOriginal(
            f"{refusal}; from the original in float64 the copy is up to {distance:.3g} nats away, "
            f"and rounding takes the original itself up to {truth.rounding:.3g} away, so that at "
            f"most {truth.limit:.3g} was expected; use another model."
        )
    return difference


def refuse_other_tokens(name: str, model: DecoderOnly, tokenizer: PreTrainedTokenizerBase) -> None:
    """Accept only a model whose own ``to_tokens`` gives the original's token ids."""
    with refuse_crash(name):
        wanted = tokenizer(TEXT).input_ids
        given = model.to_tokens(TEXT, truncate=False)[0].tolist()
    if given != wanted:
        raise NotItsOriginal(
            f"The tokens of {name!r} are not its original's: got {given[:4]}..., expected "
            f"{wanted[:4]}...; TransformerLens does not handle this tokenizer, so use another "
            "model."
        )
