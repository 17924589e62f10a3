"""Check that the engine computes what a model computes, before the first sweep of it.

Models that ``load_model`` made equal their originals, and engine and models are held together by
tests; a user's own model, or one that was changed since, may be something that nobody foresaw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import numpy as np
import torch

from layerwise.errors import UserError, one_line
from layerwise.models.decoder import DecoderModel
from layerwise.models.decoder.load import is_tested
from layerwise.models.huggingface.altered import refuse_for_engine, refuse_for_reference
from layerwise.models.instance.facts import version_at_load
from layerwise.models.instance.kinds import (
    Model,
    before_answer,
    decoder_prefix,
    is_seq2seq,
    vocabularies,
)
from layerwise.models.instance.structure import Version, model_version
from layerwise.sweep.changes.interventions import intact
from layerwise.sweep.requests import (
    Generate,
    Generated,
    LogLikelihood,
    Request,
    Scored,
    Tokens,
    make_stopper,
)
from layerwise.sweep.walk.engine_run import engine_outcomes

from .reference import Hooks, model_logits

# Engine and reference agree to this, in nats, where rounding is not amplified.
CLOSE = 1e-4
# The engine sums in another order than the model; a change in the last bit at every site of the
# model, drawn a few times, shows what such differences can grow to. So many times that is allowed.
DRAWS, TIMES = 3, 4
NEW_TOKENS = 3
_NO_END = SimpleNamespace(eos_token_id=None, decode=lambda tokens, **options: "")
_TRIED: WeakKeyDictionary[torch.nn.Module, Version] = WeakKeyDictionary()


def check_faithful(model: Model, method: str = "engine") -> None:
    """Refuse a model whose engine outcomes differ from ``model(tokens)``."""
    # What is hung on modules is looked for at every call, in milliseconds. A model that
    # ``load_model`` did not make, or whose modules, weights or settings changed since, or which
    # runs the modules of a family that no test knows, is compared with the engine once, on a few
    # random prompts that share beginnings.
    refuse_states(model)
    if method == "reference":
        return refuse_for_reference(model)
    refuse_for_engine(model)
    version = model_version(model)
    unknown = isinstance(model, DecoderModel) and not is_tested(model.original)
    loaded = None if unknown else version_at_load(model)
    if version in (loaded, _TRIED.get(model)):
        return None
    _compare(model)
    _TRIED[model] = model_version(model)  # a first run may make tables
    return None


def refuse_states(model: Model) -> None:
    """Refuse models without weights, and changed states of torch."""
    if model.W_E.is_meta:
        raise UserError(
            "The model's weights are on the device 'meta', where they have no values: expected "
            "them in memory; load the model with load_model."
        )
    kind = model.W_E.device.type
    if torch.is_autocast_enabled(kind):
        word = str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
        raise UserError(
            f"torch.autocast is on, which would compute in {word} what is recorded as "
            f"{str(model.W_E.dtype).removeprefix('torch.')}: expected the model's own number "
            f"format; leave the autocast block, or load the model with dtype={word!r}."
        )


@torch.inference_mode()
def _compare(model: Model) -> None:
    """Compare the engine with the model itself."""
    requests = _requests(model)
    plain = [_run_model(model, request) for request in requests]
    difference = max(_differences(model, requests, plain), default=0.0)
    if difference <= CLOSE:
        return
    again = max(
        _largest_gap(logits, _run_model(model, request))
        for logits, request in zip(plain, requests, strict=True)
    )
    if again > CLOSE:
        raise UserError(
            f"The model gives other numbers each time (up to {again:.3g} nats apart for the same "
            "tokens): expected a model without chance in it; call model.eval(), and take out what "
            "draws at random."
        )
    explained = max(CLOSE, TIMES * _spread(model, requests, plain))
    if difference <= explained:
        return
    raise UserError(
        "The engine does not compute what this model computes: log-probabilities of random "
        f"tokens differ by up to {difference:.3g} nats from those of model(tokens), and rounding "
        f"explains {explained:.1g}; expected modules that do what their classes do. Undo what was "
        "changed, or use method='reference', which runs the model as it is."
    )


def _requests(model: Model) -> list[Request]:
    """Random prompts that share beginnings, with continuations; some are to be gone on with."""
    rng = np.random.default_rng(0)
    room = model.cfg.n_ctx
    n_in, n_out = vocabularies(model)

    def draw_tokens(count: int, size: int) -> Tokens:
        return tuple(rng.integers(size, size=count).tolist())

    begin, long = draw_tokens(6, n_in), draw_tokens(40, n_in)
    requests: list[Request] = []
    for context, length in ((begin[:1], 3), (begin, 5), (begin, 2), (long[:1], 20)):
        kept = context[: room if is_seq2seq(model) else room - 1]
        free = room - len(before_answer(model, kept))
        if kept and free > 0:
            requests.append(LogLikelihood(kept, draw_tokens(min(length, free), min(n_in, n_out))))
    if n_in >= n_out:  # else a token that is said may be one that cannot be read
        for context in (begin[:3] + draw_tokens(2, n_in), long, (*long[:36], *begin[:3])):
            if len(context) + len(decoder_prefix(model)) + NEW_TOKENS <= room:
                requests.append(Generate(context, NEW_TOKENS))
    return requests


def _differences(
    model: Model, requests: Sequence[Request], plain: Sequence[torch.Tensor]
) -> Iterator[float]:
    """Differences of the engine's log-probabilities and texts from the model's own, in nats."""
    try:
        (outcomes,), _, _ = engine_outcomes(model, [intact()], requests, make_stopper(_NO_END))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The engine cannot run this model ({type(error).__name__}: "
            f"{one_line(error)}): expected modules that do what their classes "
            "do; undo what was changed."
        ) from error
    for request, outcome, logits in zip(requests, outcomes, plain, strict=True):
        if isinstance(outcome, Scored) and isinstance(request, LogLikelihood):
            rows = _rows(logits, len(request.continuation))
            for row, token, given in zip(
                rows, request.continuation, outcome.token_logprobs, strict=True
            ):
                yield _gap(float(row[token]), given)
        elif isinstance(outcome, Generated):
            written = model_logits(model, request, outcome.tokens[:-1])
            rows = _rows(written, len(outcome.tokens))
            for row, token in zip(rows, outcome.tokens, strict=True):
                yield _gap(float(row.max()), float(row[token]))


def _rows(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Log-probabilities at the last positions."""
    return torch.log_softmax(logits[-count:].double(), dim=-1)


def _gap(outcome: float, other: float) -> float:
    """Absolute difference of two numbers; 0 if both are the same infinity."""
    if outcome == other:
        return 0.0
    apart = abs(outcome - other)
    return math.inf if math.isnan(apart) else apart


def _run_model(model: Model, request: Request, disturbed: int | None = None) -> torch.Tensor:
    """Logits of a prompt and its continuation from the model itself; undisturbed if None."""
    continuation = request.continuation[:-1] if isinstance(request, LogLikelihood) else ()
    hooks: Hooks = []
    if disturbed is not None:
        hooks = [(lambda name: True, _disturbing_hook(disturbed))]
    try:
        return model_logits(model, request, continuation, hooks)
    except Exception as error:
        raise UserError(
            f"The model does not run ({type(error).__name__}: "
            f"{one_line(error)}): expected logits of a few tokens; try "
            "model(tokens) by itself."
        ) from error


def _disturbing_hook(seed: int) -> Callable[[torch.Tensor, object], torch.Tensor]:
    """A hook that changes activations in their last bit, at random."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(tensor: torch.Tensor, hook: object) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
        # A sum is off by its largest parts' last bit, also where it is nearly zero itself.
        size = tensor.abs().nan_to_num(0.0, 0.0, 0.0)
        size = torch.maximum(size, size.square().mean().sqrt())
        return tensor + noise.to(tensor) * size * torch.finfo(tensor.dtype).eps

    return disturb


def _spread(model: Model, requests: Sequence[Request], plain: Sequence[torch.Tensor]) -> float:
    """Distance of log-probabilities when activations differ in their last bits, in nats."""
    return max(
        _largest_gap(logits, _run_model(model, request, seed))
        for seed in range(DRAWS)
        for request, logits in zip(requests, plain, strict=True)
    )


def _largest_gap(outcome: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of log-probabilities over positions and vocabulary, in nats."""
    first, second = (_rows(logits, len(logits)) for logits in (outcome, other))
    gaps = torch.where(first == second, 0.0, (first - second).abs())
    return float(gaps.nan_to_num(0.0).max())
