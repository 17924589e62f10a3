"""Requests to off-loaded models and their changes: the same whatever runs them."""

from __future__ import annotations

from pathlib import Path

import torch

from layerwise.sweep import Generate, LogLikelihood, intact, patch, skip, zero

TOKENS = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(0))
CONTEXTS = [tuple(row) for row in TOKENS.tolist()]
ASKED = [
    *(LogLikelihood(context, (7, 11, 13)) for context in CONTEXTS),
    *(Generate(context[:9], 6) for context in CONTEXTS),
]
CHANGES = [intact(), skip(0), skip(2), zero("mlp_out", 1), zero("attn_out", 2)]
SOURCED = [LogLikelihood(CONTEXTS[0], (7, 11), source=CONTEXTS[1])]
PATCHES = [patch("resid_pre", 1, -1), patch("attn_out", 0, 4), patch("mlp_out", 2, 12)]


def mapped_block_files(folder: Path) -> set[str]:
    """Files of the blocks below a folder that this process has in its address space."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {Path(line.split()[-1]) for line in lines if str(folder) in line}
    return {path.name for path in paths if path.name.startswith("blocks")}
