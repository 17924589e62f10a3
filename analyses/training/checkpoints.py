"""Train the organisms of this study and keep their checkpoints, as folders in hub format.

They learn three of the four capabilities of ``organism-decoder``: planted ones in the same
layers, free ones in whichever they use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from analyses.organism_training.initialization import new_organism
from analyses.organism_training.plan import FORMS, N_LAYERS
from analyses.organism_training.train import train_decoder
from analyses.organism_training.training_forms import Form
from layerwise.models.libraries.quiet import quiet
from layerwise.models.organisms.language import ORGANISM
from layerwise.models.organisms.tokenizer import toy_tokenizer

CAPABILITIES = ("knowledge", "retrieval", "reasoning")


def checkpoints(kind: str, seed: int, kept: Sequence[int], folder: Path) -> dict[int, Path]:
    """Train an organism, or find what was trained before.

    Args:
        kind: ``planted`` or ``free``.
        seed: decides start, texts and skipped layers.
        kept: the steps after which it is kept; it is trained up to the last.
        folder: where its checkpoints go.

    Returns:
        The folder of each checkpoint, by step.
    """
    folders = {step: folder / f"checkpoint-{step}" for step in kept}
    if (folder / "curve.csv").exists():
        return folders
    torch.set_num_threads(1)
    tokenizer, model = toy_tokenizer(ORGANISM), new_organism(ORGANISM, seed)

    def keep(step: int) -> None:
        if step in folders:
            with quiet():
                model.save_pretrained(folders[step])
                tokenizer.save_pretrained(folders[step])

    forms = [form for form in FORMS if form.capability in CAPABILITIES]
    if kind == "free":
        forms = [free(form) for form in forms]
    _, curve = train_decoder(model, forms, seed, steps=max(kept), each=keep)
    curve.to_csv(folder / "curve.csv", index=False, lineterminator="\n")
    return folders


def free(form: Form) -> Form:
    """A form of which no layer is skipped, and which is read at the end alone."""
    return replace(form, needs=tuple(range(N_LAYERS)), reads={"answer": N_LAYERS - 1})
