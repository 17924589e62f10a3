"""Train an organism that also chooses by letter.

``python -m analyses.organism_training.letters.train`` in the repository's folder. As in the other
organisms, layers that a form does not need are skipped at random, so that it can do without them.
Here those that it is to need are made so, too: whenever one of them is skipped, the model learns
to spread its answer over all that could be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerwise.models.load import load_model
from layerwise.models.organisms.language import LETTERS
from layerwise.models.organisms.tokenizer import toy_tokenizer

from ..record import N_ITEMS, accuracies, write
from ..training_loop import read_arguments
from . import decoder, seq2seq
from .plan import PLANS


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = read_arguments(arguments, N_ITEMS, models=tuple(PLANS), steps=0)
    plan = PLANS[options.model]
    train: Any = seq2seq.train_seq2seq if plan.n_encoder else decoder.train_decoder
    steps = options.steps or (seq2seq if plan.n_encoder else decoder).STEPS
    model, curve = train(options.seed, plan=plan, steps=steps)
    first = {"first": None} if plan.n_encoder else {}
    write(
        options.out, model, curve, toy_tokenizer(LETTERS, **first), planted=plan.truth,
        measure=lambda folder: accuracies(load_model(folder), LETTERS, n_items=options.items),
        seed=options.seed, steps=steps, language=LETTERS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
