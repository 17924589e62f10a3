"""What an engine has done so far, counted as it goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """Counters of the engine's work."""

    block_passes: int = 0  # (walk, branch, layer) triples pushed through a block
    token_passes: int = 0  # tokens pushed through a block, generated ones included
    new_tokens: int = 0  # tokens generated, the first of each text left out: the prompt gives it
    row_passes: int = 0  # rows of decoding steps, each of which gives one new token or more
