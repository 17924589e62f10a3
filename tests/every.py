"""Every analysis as one call, in the smallest form that has several pieces."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import layerwise as lw

MODEL, OTHER_MODEL = "organism-letters", "organism-letters-other"
LETTERS = {"limit": 12, "progress": False, "seed": 1}


def other_model() -> Any:
    return lw.load_model(OTHER_MODEL)


@functools.cache
def toy_text(n_texts: int = 8, n_words: int = 24) -> Path:
    """A file of texts in the toy language."""
    rng = np.random.default_rng(0)
    words = [f"{kind}{n}" for kind in "kv" for n in range(40)]
    texts = [" ".join(rng.choice(words, n_words)) for _ in range(n_texts)]
    path = Path(tempfile.mkdtemp(prefix="layerwise-text-")) / "toy.txt"
    path.write_text("\n\n".join(texts), "utf-8")
    return path


ANALYSES: dict[str, Callable[..., Any]] = {
    "ablate": lambda model, **more: lw.ablate(model, "all", **LETTERS, **more),
    "mean ablation": lambda model, **more: lw.ablate(model, "all", kind="mean", **LETTERS, **more),
    "logit lens": lambda model, **more: lw.logit_lens(model, "all", **LETTERS, **more),
    "attribution": lambda model, **more: lw.attribution(model, "all", **LETTERS, **more),
    "similarity": lambda model, **more: lw.similarity(model, "all", **LETTERS, **more),
    "patching": lambda model, **more: lw.patch_activations(model, pairs=2, **LETTERS, **more),
    "path patching": lambda model, **more: lw.patch_paths(model, pairs=2, **LETTERS, **more),
    "estimates": lambda model, **more: lw.attribute_patches(model, pairs=2, **LETTERS, **more),
    "removal": lambda model, **more: lw.removal_order(
        model, "all", "letter", n_removed=2, by=("greedy", "block"), held_out=0.25, **LETTERS,
        **more,
    ),
    "interactions": lambda model, **more: lw.interactions(
        model, "all", "letter", layers=[0, 1, 2], **LETTERS, **more
    ),
    "heads": lambda model, **more: lw.head_scores(
        model, sequences=4, length=8, progress=False, **more
    ),
    "decisions": lambda model, **more: lw.decide(
        model, "all", "letter", round_items=8, **LETTERS, **more
    ),
    "text loss": lambda model, **more: lw.text_loss(
        model, text=toy_text(), pieces=4, progress=False, seed=1, **more
    ),
    "head sets": lambda model, **more: lw.head_sets(
        model, "all", "letter", by="copying", random_sets=2, **LETTERS, **more
    ),
    "transplant": lambda model, **more: lw.transplant(
        model, other_model(), "all", "letter", **LETTERS, **more
    ),
    "profile": lambda model, **more: lw.profile(model, "all", pairs=2, **LETTERS, **more),
    "checkpoints": lambda model, **more: lw.profile_training(
        {1: MODEL, 2: OTHER_MODEL}, "all", "letter", **LETTERS, **more
    ),
}  # fmt: skip


def measured_tables(result: Any) -> dict[str, pd.DataFrame]:
    """The tables that were measured, by name."""
    results = result.results if isinstance(result, lw.Profile) else (result,)
    return {name: getattr(one, name) for one in results for name in one.tables}
