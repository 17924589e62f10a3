"""Tuned lens: a translator for each depth, trained so that its reading is like the final one.

Read with one by ``logit_lens(..., lens="tuned")``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Unpack

import pandas as pd

from layerwise.analyses.arguments import Tasks, check_arguments
from layerwise.analyses.execute import execute
from layerwise.analyses.shared.texts import texts_of_file, texts_of_tasks
from layerwise.analyses.shared.translators import FILE
from layerwise.analyses.shared.translators import TunedLens as TunedLens
from layerwise.errors import UserError
from layerwise.ground.argument_types import known_name_validator
from layerwise.ground.readers import AnyPath
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.options import PromptOptions
from layerwise.runs.progress import Meter
from layerwise.runs.setup import prepare
from layerwise.storage.parquet import frame
from layerwise.storage.places import OutputFolder

from .result import TunedLensResult
from .training import LensTrainer, compare

KINDS = ("full", "bias")
# Steps after which what was trained is kept for a run that goes on.
KEPT_EVERY = 25
# A step of so many standard deviations is no step of a descent any more.
LARGEST_RATE = 1000.0
_STATE = "tuned lens"


@dataclass(frozen=True)
class TrainedLens:
    """A trained lens, and how it reads texts that it was not trained on.

    Attributes:
        lens: the translators.
        result: its divergence from the final distribution beside that without translators.
    """

    lens: TunedLens
    result: TunedLensResult


def check_training_options(steps: int, rate: float) -> None:
    """Refuse to train in no steps, or in such as lead nowhere."""
    if steps < 1 or not 0 < rate <= LARGEST_RATE:
        raise UserError(
            f"A tuned lens cannot be trained in {steps} steps at rate {rate}; "
            f"expected one step or more, and a rate above 0 and at most {LARGEST_RATE:,.0f}."
        )


@check_arguments(check_training_options)
@exclusive
def train_lens(
    model: LoadedModel,
    tasks: Tasks = "all",
    *,
    text: AnyPath | None = None,
    kind: Annotated[str, known_name_validator("kind of tuned lens", KINDS)] = "full",
    n_texts: int = 512,
    steps: int = 200,
    rate: float = 0.01,
    out: OutputFolder | None = None,
    progress: bool = True,
    **run: Unpack[PromptOptions],
) -> TrainedLens:
    """Train a tuned lens (Belrose et al. 2023, arXiv:2303.08112) and test it on other texts.

    Of an encoder-decoder both stacks are trained. A translated stream of the encoder goes through
    its final norm and is read by the whole decoder, as if the encoder ended there (after Langedijk
    et al. 2023, arXiv:2310.03686); prompts go to the encoder and their answers to the decoder, and
    a piece of text is cut in the middle between them.

    Args:
        model: the model; it is not changed.
        tasks: the tasks that the lens is to read later: without ``text`` it is trained on their
            prompts by other seeds, and none of their items is among them.
        text: a ``.txt`` file with a blank line between texts, or a ``.jsonl`` file with a field
            ``text``.
        kind: ``full`` (a matrix and a bias for each depth) or ``bias``.
        n_texts: most texts to use; a fifth of them is held out.
        steps: number of steps, each of 8 texts and up to 16 tokens of each. Each encoder layer
            costs one run of the decoder with its gradient per step.
        rate: step size at first, in standard deviations of an activation.
        limit: the first so many items of each task are those to be read later.

    Raises:
        UserError: for anything unknown or out of range, or too little text.
    """
    check_training_options(steps, rate)
    setup = prepare(model, tasks, ("letter", "continuation"), out=out, **run)
    if text is None:
        texts = texts_of_tasks(setup, n_texts)
    else:
        setup = replace(setup, tasks=(), protocols=())
        texts = texts_of_file(Path(text), setup, n_texts)
    own = {
        "kind": kind,
        "text": texts.source,
        "text_hash": texts.hash,
        "texts_trained_on": len(texts.train),
        "texts_held_out": len(texts.held_out),
        "steps": steps,
        "rate": rate,
    }
    settings = setup.settings(analysis="tuned lens", **own)
    made: list[TunedLens] = []

    def make(parts: CheckpointStore, progress: Meter) -> list[TunedLensResult]:
        loaded = setup.loaded
        facts = {"model": loaded.name, "model_hash": loaded.hash, "seed": setup.seed}
        trainer = LensTrainer(
            setup.model, texts.train, kind == "full", steps, rate, setup.seed, setup.memory_budget
        )  # fmt: skip
        made.append(_train(trainer, facts | own, parts, progress))
        progress.set_activity("testing the tuned lens")
        rows = compare(setup.model, made[0], texts.held_out, setup.seed, setup.memory_budget)
        progress.add_work(1.0)
        table = frame("tuned_lens", [{"kind": kind, **row} for row in rows])
        return [TunedLensResult(table, setup.facts(settings))]

    (result,) = execute(
        make, (TunedLensResult,), out, settings, setup.refuse_changed, progress,
        lambda folder: made[0].write(folder / FILE),
    )  # fmt: skip
    return TrainedLens(made[0] if made else TunedLens.load(Path(str(out))), result)


def _train(
    trainer: LensTrainer, facts: dict[str, Any], parts: CheckpointStore, progress: Meter
) -> TunedLens:
    """Train on from where an interrupted run stopped."""
    if parts.has_part(_STATE):
        trainer.resume(parts.read_part(_STATE)["state"].iloc[0])
    progress.expect(trainer.steps + 1.0)
    progress.set_activity("training the tuned lens")
    progress.add_work(float(trainer.done))
    while trainer.done < trainer.steps:
        trainer.step()
        progress.add_work(1.0)
        if trainer.done % KEPT_EVERY == 0:
            parts.write_part(_STATE, pd.DataFrame({"state": [trainer.state()]}))
    return trainer.make_lens(facts)
