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
from jaxtyping import Float, Int
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layerwise.errors import UserError, one_line
from layerwise.models.files.cache import folder_sha256, key_of, read_record, write_record
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.models.instance.loaded import TRANSFORMER_LENS

from .rounding import MULTIPLE, StayFloat64, disturbances

TOLERANCE = 1e-3
"""Largest difference accepted in float32 without asking how much of it is rounding, in nats."""

ABSURD = 10.0
"""Largest difference accepted in a reduced number format, in nats."""

TEXT = (
    "The museum opened in 1897, three years after the old bridge had burned down. Visitors "
    "paid 25 cents; children got in free. (On Sundays, it was closed.) Anna asked: 'Why is the "
    "sea salty?' Because rivers carry salt, her uncle said, and the sea keeps it. If x = 12 and "
    "y = 30, then x + y = 42. Der Zug fährt um acht Uhr ab, and the last one leaves at midnight."
)
MAX_TOKENS = 100
_MIXING = 7919  # a prime above any toy vocabulary, so that no id comes twice
_KIND = "checks"

# Batch and pos, which differ from one member of a list to the next.
Tokens = Int[torch.Tensor, "_ _"]
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
    """What a check's outcome depends on: files, versions, format, device, text, limits, backend."""
    packages = ("layerwise", "torch", "transformers", "transformer-lens")
    versions = (metadata.version(name) for name in packages)
    limits = f"{TOLERANCE} {MULTIPLE} {ABSURD}"
    how = [*([] if backend == TRANSFORMER_LENS else [backend]), *others]
    return key_of([folder_sha256(folder), *versions, str(dtype), device.type, TEXT, limits, *how])


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


def token_ids(tokenizer: PreTrainedTokenizerBase, n_ctx: int) -> list[int]:
    """Token ids of the fixed text, at most ``MAX_TOKENS`` and ``n_ctx`` of them."""
    # Of a toy language, which has no such words, other ids of its vocabulary in a mixed order.
    ids = tokenizer(TEXT).input_ids
    if ids.count(tokenizer.unk_token_id) > len(ids) / 2:
        size = len(tokenizer)
        ids = [index * _MIXING % size for index in range(size)]
    return ids[: min(MAX_TOKENS, n_ctx)]


def batches(ids: list[int]) -> list[Tokens]:
    """The fixed text in several lengths, and two of its parts as a batch."""
    half = max(len(ids) // 2, 1)
    lengths = sorted({1, min(2, len(ids)), half, len(ids)})
    single = [torch.tensor([ids[:length]]) for length in lengths]
    return [*single, torch.tensor([ids[:half], ids[-half:]])]


def reference(original: PreTrainedModel, ids: list[int]) -> list[LogProbs]:
    """Log-probabilities of the original, on the device where it lies, for each of ``batches``."""
    # One at a time: with a large vocabulary all logits together are a good part of the weights.
    return [logprobs_of(_logits(original, tokens)) for tokens in batches(ids)]


@torch.inference_mode()
def _logits(original: PreTrainedModel, tokens: Tokens) -> torch.Tensor:
    return original(input_ids=tokens.to(original.device), use_cache=False).logits


def logprobs_of(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities on the CPU, in float32 at least."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(-1).cpu()


def largest_difference(model: DecoderOnly, expected: list[LogProbs], ids: list[int]) -> float:
    """Largest difference of log-probabilities from ``expected``, in nats; NaN makes it infinite."""
    with torch.inference_mode():
        given = (logprobs_of(model(tokens.to(model.W_E.device))) for tokens in batches(ids))
        return farthest(given, expected)


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
        """How far from float64 a hooked model may be, in nats."""
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
def must_run(name: str) -> Iterator[None]:
    """Turn a crash of the compared models into one sentence."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"Model {name!r} does not run ({type(error).__name__}: {one_line(error)}): expected "
            "log-probabilities of a short text; correct its config.json or its tokenizer's files, "
            "or use another model."
        ) from error


def refuse_difference(
    name: str,
    difference: float,
    dtype: torch.dtype,
    from_exact: Callable[[], tuple[float, Exact]] | None = None,
) -> None:
    """Accept only a hooked model that is its original."""
    limit = TOLERANCE if dtype == torch.float32 else ABSURD
    if difference <= limit:
        return
    word = str(dtype).removeprefix("torch.")
    refusal = (
        f"The hooked copy of {name!r} is not its original in {word}: log-probabilities differ by "
        f"up to {difference:.3g} nats"
    )
    if dtype != torch.float32 or math.isinf(difference) or from_exact is None:
        raise NotItsOriginal(f"{refusal}, expected at most {limit:g}; use another model.")
    distance, truth = from_exact()
    if not distance <= truth.limit or math.isinf(distance):
        raise NotItsOriginal(
            f"{refusal}; from the original in float64 the copy is up to {distance:.3g} nats away, "
            f"and rounding takes the original itself up to {truth.rounding:.3g} away, so that at "
            f"most {truth.limit:.3g} was expected; use another model."
        )


def refuse_other_tokens(name: str, model: DecoderOnly, tokenizer: PreTrainedTokenizerBase) -> None:
    """Accept only a model whose own ``to_tokens`` gives the original's token ids."""
    with must_run(name):
        wanted = tokenizer(TEXT).input_ids
        given = model.to_tokens(TEXT, truncate=False)[0].tolist()
    if given != wanted:
        raise NotItsOriginal(
            f"The tokens of {name!r} are not its original's: got {given[:4]}..., expected "
            f"{wanted[:4]}...; TransformerLens does not handle this tokenizer, so use another "
            "model."
        )
