"""How fast this machine pushes an encoder-decoder of some shape through the engine.

How it is remembered is in ``sweep.calibration``, the measuring itself in ``bench``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from layerwise.models.seq2seq import Seq2SeqModel

from .._curves import Curve, check_measured, worthwhile
from .bench import TwoStackBench


@dataclass(frozen=True)
class TwoStackCalibration:
    """Seconds measured on one machine, for blocks of both stacks and for their unembedding.

    Attributes:
        tokens_at_once: how many tokens to push through a block at once.
        encoder: seconds for so many tokens pushed through an encoder block at once, attention
            aside.
        decoder: the same for a decoder block, whose keys and values of the input are there.
        memory: seconds for the keys and values that a decoder block makes of so many input
            tokens.
        step: seconds for one new token in each of so many rows, through a decoder block.
        unembedding: seconds to score so many rows: norm, unembedding, log-probability, argmax.
        pair_seconds: for one query meeting one key, in all heads of a block.
        flop_per_second: rate of the MLP's first matrix product at ``tokens_at_once`` tokens.
    """

    tokens_at_once: int
    encoder: Curve
    decoder: Curve
    memory: Curve
    step: Curve
    unembedding: Curve
    pair_seconds: float
    flop_per_second: float

    def __post_init__(self) -> None:
        check_measured(
            self.tokens_at_once,
            (self.encoder, self.decoder, self.memory, self.step, self.unembedding),
            (self.pair_seconds,),
            self.flop_per_second,
        )


@torch.inference_mode()
def calibrate_two_stacks(model: Seq2SeqModel, seconds: float = 6.0) -> TwoStackCalibration:
    """Measure.

    Args:
        model: the model.
        seconds: about how long to measure; large sizes that would take longer are left out.
    """
    bench = TwoStackBench(model, seconds)
    pair = bench.pair()
    step = bench.step()
    unembedding = bench.unembedding()
    memory = bench.memory()
    encoder = bench.encoder_curve(pair)
    decoder = bench.decoder_curve(pair)
    at_once = max(worthwhile(encoder), worthwhile(decoder))
    rate = bench.flop_per_second(at_once)
    return TwoStackCalibration(at_once, encoder, decoder, memory, step, unembedding, pair, rate)
