"""How fast this machine pushes a model of some shape through the engine: measured once, then kept.

The measuring itself is in ``_bench``; what a sweep takes by these figures is in ``cost``.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from transformer_lens import HookedTransformer

from ..models.cache import cache_dir, key_of, read_record, write_record
from ..models.in_turn import in_turn
from ..models.kinds import Model
from ..models.seq2seq import Seq2SeqModel
from ._bench import LONG, Bench
from ._curves import FEWEST, Curve, check_measured, worthwhile
from .blocks import attention_in_use
from .seq2seq.bench import TwoStackBench
from .seq2seq.calibration import TwoStackCalibration, calibrate_two_stacks
from .seq2seq.stand_in import stand_in_of_two_stacks
from .stand_in import stand_in

# Fewer threads are told of only if they are faster by more than this.
FASTER = 0.1
_KIND = "calibrations"


@dataclass(frozen=True)
class Calibration:
    """Seconds measured on one machine, for blocks of one shape and for their unembedding.

    Attributes:
        tokens_at_once: how many tokens to push through a block at once.
        block: seconds for so many tokens pushed through a block at once, attention aside.
        step: seconds for one new token in each of so many rows, through a block, attention aside.
        unembedding: seconds to score so many rows: norm, unembedding, log-probability, argmax.
        pair_seconds: for one query meeting one key, in all heads of a block.
        key_seconds: for one key gathered for a run of queries, in a block.
        step_pair_seconds: as ``pair_seconds``, in decoding.
        flop_per_second: rate of the MLP's first matrix product at ``tokens_at_once`` tokens.
    """

    tokens_at_once: int
    block: Curve
    step: Curve
    unembedding: Curve
    pair_seconds: float
    key_seconds: float
    step_pair_seconds: float
    flop_per_second: float

    def __post_init__(self) -> None:
        check_measured(
            self.tokens_at_once,
            (self.block, self.step, self.unembedding),
            (self.pair_seconds, self.key_seconds, self.step_pair_seconds),
            self.flop_per_second,
        )


@dataclass(frozen=True)
class FewerThreads:
    """Fewer threads are faster just now.

    Attributes:
        used: how many torch uses.
        better: how many would be faster.
        times: how many times faster.
    """

    used: int
    better: int
    times: float


@in_turn
def calibration_for(
    model: Model, device: str | None = None, *, anew: bool = False
) -> Calibration | TwoStackCalibration | None:
    """The calibration of a model's shape on this machine; measured once, and then remembered.

    It is kept in the cache folder by processor, versions, threads, number format, device and
    shape, so that runs on one machine choose the same sizes, and with them the same rounding.

    Args:
        model: the model; of its weights only number and format matter, and they may be missing,
            or on disk.
        device: where an outline's weights would be; where they are if None.
        anew: measure again, whatever is remembered.

    Returns:
        The calibration, of the model's kind; None for an outline of which not even a few blocks
        fit into memory.
    """
    where = torch.device(device or model.W_E.device)
    at = (str(cache_dir()), _key(model, where))
    found = None if anew else _HELD.get(at) or _read(at[1], kind_for(model))
    if found is None:
        elsewhere = any(parameter.is_meta for parameter in model.parameters())
        timed = stand_in_for(model, str(where)) if elsewhere else model
        if timed is None:
            return None
        two_stacks = isinstance(timed, Seq2SeqModel)
        found = calibrate_two_stacks(timed) if two_stacks else calibrate(timed)
        write_record(_KIND, at[1], asdict(found))
    _HELD[at] = found
    return found


# Where the cache folder cannot be written, a process still measures only once.
_HELD: dict[tuple[str, str], Calibration | TwoStackCalibration] = {}


def stand_in_for(model: Model, device: str) -> Model | None:
    """A model of the same shape that can be timed; None where it would not fit into memory."""
    if isinstance(model, Seq2SeqModel):
        return stand_in_of_two_stacks(model, device)
    return stand_in(model, device)


def kind_for(model: Model) -> type[Calibration] | type[TwoStackCalibration]:
    """The kind of calibration that a model has."""
    return TwoStackCalibration if isinstance(model, Seq2SeqModel) else Calibration


def _read(
    key: str, kind: type[Calibration] | type[TwoStackCalibration]
) -> Calibration | TwoStackCalibration | None:
    try:
        return TypeAdapter(kind).validate_python(read_record(_KIND, key))
    except ValidationError:
        return None


def _key(model: Model, where: torch.device) -> str:
    cfg: Any = model.cfg
    shape: tuple[object, ...]
    if isinstance(model, Seq2SeqModel):
        gated = model.parts.encoder.blocks[0].mlp.gate is not None
        shape = (
            "two stacks", cfg.d_model, cfg.encoder_heads, cfg.decoder_heads, cfg.encoder_d_head,
            cfg.decoder_d_head, cfg.d_mlp, cfg.d_vocab, gated, cfg.post_norm,
            model.parts.encoder.relative is not None, min(cfg.n_ctx, LONG),
        )  # fmt: skip
    else:
        shape = (
            cfg.d_model, cfg.d_head, cfg.n_heads, cfg.n_key_value_heads, cfg.d_mlp, cfg.d_vocab,
            cfg.gated_mlp, cfg.attn_only, cfg.num_experts, cfg.experts_per_token,
            min(cfg.n_ctx, LONG),
        )  # fmt: skip
    machine = (processor(where), torch.get_num_threads(), where, model.W_E.dtype)
    versions = [metadata.version(name) for name in ("layerwise", "torch")]
    figures = [field.name for field in fields(kind_for(model))]
    return key_of([*map(str, (*machine, *shape)), *versions, attention_in_use(model), *figures])


@functools.cache
def processor(device: torch.device) -> str:
    """The name of the processor behind a device, as far as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@torch.inference_mode()
def calibrate(model: HookedTransformer, seconds: float = 4.5) -> Calibration:
    """Measure.

    Args:
        model: the model.
        seconds: about how long to measure; large sizes that would take longer are left out.
    """
    bench = Bench(model, seconds)
    pair, key = bench.attention()
    step, step_pair = bench.step()
    unembedding = bench.unembedding()
    block = bench.block(pair, key)
    at_once = worthwhile(block)
    rate = bench.flop_per_second(at_once)
    return Calibration(at_once, block, step, unembedding, pair, key, step_pair, rate)


@in_turn
@torch.inference_mode()
def fewer_threads(model: Model, seconds: float = 1.0) -> FewerThreads | None:
    """Whether fewer threads would be faster just now; None if not by a tenth at least.

    Threads that must wait for each other can be far slower beside other work on the machine. The
    number of threads is left as it was.

    Args:
        model: the model.
        seconds: about how long to measure.
    """
    used = torch.get_num_threads()
    fewer = sorted({1, used // 2} - {0, used})
    if model.W_E.device.type != "cpu" or not fewer:
        return None
    spent: dict[int, float] = {}
    try:
        for threads in (used, *fewer):
            torch.set_num_threads(threads)
            spent[threads] = _one_push(model, seconds / (1 + len(fewer)))
    finally:
        torch.set_num_threads(used)
    better = min(fewer, key=spent.__getitem__)
    times = spent[used] / spent[better]
    return FewerThreads(used, better, times) if times > 1 + FASTER else None


def _one_push(model: Model, seconds: float) -> float:
    """Seconds to push ``FEWEST`` tokens through a block."""
    if isinstance(model, Seq2SeqModel):
        return TwoStackBench(model, seconds).encoder(FEWEST, repeats=15)
    bench = Bench(model, seconds)
    return bench.push(bench.apart(FEWEST), repeats=15)
