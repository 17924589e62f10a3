"""The claims: a module for each paper, with its claims in ``CLAIMS``; add one by its name here."""

from __future__ import annotations

from ..verdicts.claim import PublishedClaim
from . import (
    csordas,
    geva,
    hu,
    lad,
    men,
    meng,
    neeraj,
    olsson,
    song,
    song_heads,
    trained,
    wu,
)

PAPERS = (
    song, song_heads, trained, lad, csordas, hu, men, meng, geva, neeraj, wu, olsson,
)  # fmt: skip
BY_NAME: dict[str, PublishedClaim] = {
    claim.name: claim for paper in PAPERS for claim in paper.CLAIMS
}
