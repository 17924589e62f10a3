"""Train the organisms of this study and keep their checkpoints, as folders in hub format.

They learn three of the four capabilities of ``organism-decoder``, in the same planted layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from layerwise.models.organisms.language import ORGANISM
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.models.quiet import quiet
from layerwise.organisms.initialization import new_organism
from layerwise.organisms.plan import FORMS
from layerwise.organisms.train import train_decoder

CAPABILITIES = ("knowledge", "retrieval", "reasoning")


def checkpoints(seed: int, kept: Sequence[int], folder: Path) -> dict[int, Path]:
    """Train an organism, or find what was trained before.

    Args:
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
    _, curve = train_decoder(model, forms, seed, steps=max(kept), each=keep)
    curve.to_csv(folder / "curve.csv", index=False, lineterminator="\n")
    return folders
