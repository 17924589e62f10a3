"""The claims: a module for each paper, with its claims in ``CLAIMS``; add one by its name here."""

from __future__ import annotations

from ..claim import PublishedClaim
from . import csordas, lad, men, neeraj, song, trained

BY_NAME: dict[str, PublishedClaim] = {
    claim.name: claim
    for paper in (song, lad, csordas, men, neeraj, trained)
    for claim in paper.CLAIMS
}
