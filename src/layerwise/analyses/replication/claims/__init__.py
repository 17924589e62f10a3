"""The claims: a module for each paper, with its claims in ``CLAIMS``; add one by its name here."""

from __future__ import annotations

from ..claim import PublishedClaim
from . import csordas, lad, men, neeraj, olsson, song, song_heads, wu

BY_NAME: dict[str, PublishedClaim] = {
    claim.name: claim
    for paper in (song, song_heads, lad, csordas, men, neeraj, wu, olsson)
    for claim in paper.CLAIMS
}
