"""The claims: a module for each paper, with its claims in ``CLAIMS``; add one by its name here."""

from __future__ import annotations

from ..claim import PublishedClaim
from . import csordas, geva, hu, lad, men, meng, neeraj, song, trained

BY_NAME: dict[str, PublishedClaim] = {
    claim.name: claim
    for paper in (song, lad, csordas, hu, men, meng, geva, neeraj, trained)
    for claim in paper.CLAIMS
}
