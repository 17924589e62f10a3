"""A finding: one sentence, how much it matters, and the rows of the tables it stands on.

Which sentences can be earned, each analysis says; nothing is read from disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# A second finding of one kind tells less that is new than the first.
_DECAY = 0.8


@dataclass(frozen=True)
class Finding:
    """One sentence that the tables support.

    Attributes:
        sentence: with its interval or test, its protocol, its task or capability, and n.
        importance: from 0 to 1; higher comes first.
        kind: ``critical layers``, ``heads``, ``protocols``, ``no loss``, ``gain``,
            ``logit lens``, ``prediction depth``, ``hand-over``, ``take-up``, ``order``,
            ``removal``, ``attribution``, ``interaction``, ``interaction of layers``,
            ``agreement``, ``paths``, ``similarity``, ``estimates``, ``open book``, ``transplant``,
            ``distillation``, ``onset``, ``first layers``, ``moves`` or ``no signal``.
        source: ``table``; ``where``, the columns and values that pick the rows the sentence
            is about (``rows.rows`` takes them); and ``at``, those of the rows it quotes.
    """

    sentence: str
    importance: float
    kind: str
    source: dict[str, Any]


def source(table: str, where: dict[str, Any], **at: Any) -> dict[str, Any]:
    """A finding's source: a table, the rows it is about, and those quoted among them."""
    return {"table": table, "where": where, "at": at}


def spaced(found: list[Finding], most: int) -> list[Finding]:
    """The ``most`` important findings of a kind, each further one counting for less."""
    ranked = sorted(found, key=lambda finding: -finding.importance)[:most]
    return [
        Finding(one.sentence, one.importance * _DECAY**i, one.kind, one.source)
        for i, one in enumerate(ranked)
    ]


def weight(top: float, magnitude: float) -> float:
    """Importance of a finding of a kind worth ``top``, by the size of what it tells."""
    return top * (0.5 + 0.5 * min(max(magnitude, 0.0), 1.0))
