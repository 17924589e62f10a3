"""What a planned sweep costs: token-passes, arithmetic, memory, and by a calibration seconds.

Which walks are made is the plan's business, and so are its token-passes; nothing here runs a
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ._curves import seconds_at
from ._walk_work import UNKNOWN_LENGTHS as UNKNOWN_LENGTHS
from ._walk_work import Seconds, WalkWork
from ._walk_work import TextLengths as TextLengths
from .calibration import Calibration
from .interventions import Intervention
from .plan import SweepPlan, walk_of
from .requests import Request
from .seq2seq.calibration import TwoStackCalibration
from .sizes import Sizes as Sizes


@dataclass(frozen=True)
class Cost:
    """The work of one or more sweeps.

    Attributes:
        requests: requests put to the model.
        interventions: the most under which a request is put to the model.
        walks: walks through the layers.
        prompt_token_passes: tokens of prompts and options pushed through a block.
        text_token_passes: the same for generated tokens, as expected.
        most_text_token_passes: the same if every text gets as long as it may.
        brute_force_token_passes: of one cached forward per request and intervention, expected.
        pairs: queries times keys that they meet in a block, expected.
        rows: positions of prompts and options whose logits are computed.
        text_rows: the same for generated tokens, expected.
        flop: floating-point operations, expected.
        peak_bytes: activations, keys, values and logits, at most at any time.
        seconds: expected here; None without a calibration.
    """

    requests: int = 0
    interventions: int = 0
    walks: int = 0
    prompt_token_passes: int = 0
    text_token_passes: float = 0.0
    most_text_token_passes: int = 0
    brute_force_token_passes: float = 0.0
    pairs: float = 0.0
    rows: int = 0
    text_rows: float = 0.0
    flop: float = 0.0
    peak_bytes: int = 0
    seconds: float | None = 0.0

    @property
    def token_passes(self) -> float:
        """Tokens pushed through a block, generated ones as expected."""
        return self.prompt_token_passes + self.text_token_passes

    @property
    def amount(self) -> float:
        """How much work that is: seconds, or token-passes where these are not known."""
        return float(self.token_passes) if self.seconds is None else self.seconds

    def by_brute_force(self) -> Cost:
        """The same by one forward per request and intervention; how long that takes is unknown."""
        prompts = round(self.brute_force_token_passes - self.text_token_passes)
        return replace(self, prompt_token_passes=prompts, seconds=None)

    def __add__(self, other: Cost) -> Cost:
        both = (self.seconds, other.seconds)
        return Cost(
            self.requests + other.requests,
            max(self.interventions, other.interventions),
            self.walks + other.walks,
            self.prompt_token_passes + other.prompt_token_passes,
            self.text_token_passes + other.text_token_passes,
            self.most_text_token_passes + other.most_text_token_passes,
            self.brute_force_token_passes + other.brute_force_token_passes,
            self.pairs + other.pairs,
            self.rows + other.rows,
            self.text_rows + other.text_rows,
            self.flop + other.flop,
            max(self.peak_bytes, other.peak_bytes),
            None if both[0] is None or both[1] is None else both[0] + both[1],
        )


def cost_of(
    plan: SweepPlan,
    interventions: Sequence[Intervention],
    requests: Sequence[Request],
    sizes: Sizes,
    *,
    tokens_at_once: int,
    memory_budget: int,
    calibration: Calibration | None = None,
    lengths: TextLengths = UNKNOWN_LENGTHS,
) -> Cost:
    """What a planned sweep costs.

    Args:
        plan: the plan of these interventions and requests.
        interventions: what is changed.
        requests: what is asked.
        sizes: of the model.
        tokens_at_once: how many tokens are pushed through a block at once.
        memory_budget: bytes that the plan was made for.
        calibration: of the model's shape here; None gives no seconds.
        lengths: how long texts are expected to be.
    """
    walks = [
        WalkWork(
            walk_of(batch, interventions, requests, sizes.n_layers),
            [requests[index] for index in batch.requests],
            sizes,
            lengths,
        )
        for batch in plan.batches
    ]
    passes = sum((walk.text_passes for walk in walks), start=0.0)
    pairs = sum((walk.pairs + walk.text_pairs for walk in walks), start=0.0)
    rows = sum(walk.n_ends * len(walk.plan.read) for walk in walks)
    text_rows = sum((walk.text_rows for walk in walks), start=0.0)
    seconds = None
    if calibration is not None:
        known = Seconds(calibration, sizes, tokens_at_once, memory_budget)
        seconds = sum((known.prompts(walk) + known.texts(walk) for walk in walks), start=0.0)
    brute = sum((lengths.more_tokens(i, r) for i in interventions for r in requests), start=0.0)
    return Cost(
        requests=len(requests),
        interventions=len(interventions),
        walks=len(walks),
        prompt_token_passes=plan.token_passes,
        text_token_passes=passes,
        most_text_token_passes=sizes.n_layers * sum(walk.most_text_rows for walk in walks),
        brute_force_token_passes=plan.brute_force_token_passes + sizes.n_layers * brute,
        pairs=pairs,
        rows=rows,
        text_rows=text_rows,
        flop=sizes.flop(plan.token_passes + passes, pairs, rows + text_rows),
        peak_bytes=max(
            (walk.peak_bytes(tokens_at_once, memory_budget) for walk in walks), default=0
        ),
        seconds=seconds,
    )


def cost_of_reading(
    n_rows: int, at_once: int, sizes: Sizes, calibration: Calibration | TwoStackCalibration | None
) -> Cost:
    """What it costs to read residual streams that are there, ``at_once`` rows at a time."""
    flop = sizes.flop(0, 0, n_rows)
    if calibration is None:
        return Cost(rows=n_rows, flop=flop, seconds=None)
    seconds = n_rows / at_once * seconds_at(calibration.unembedding, at_once)
    return Cost(rows=n_rows, flop=flop, seconds=seconds)
