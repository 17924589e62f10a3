"""The training loop of a distillation: the draws of a step, its loss, the update, its state.

Every step draws from a generator of its own, so that a training which goes on draws the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from layerwise import stats
from layerwise.analyses.shared.texts import Texts
from layerwise.analyses.shared.training_state import packed_state, unpack_state
from layerwise.errors import UserError
from layerwise.models.instance.kinds import n_encoder_layers

from .batches import PaddedBatch, batches_that_fit
from .examples import Example
from .losses import Objective, divergences, kl, stream_distance
from .student import Student, Teacher, need_peft

# Steps of warm-up, at most.
WARM_UP = 50
# No step of a descent is larger.
LARGEST_RATE = 1.0
# Points of the curve where held-out texts are read, and how many of them, at most.
POINTS, MEASURED = 10, 32


def refuse_steps(rank: int | None, batch: int, steps: int, rate: float = LARGEST_RATE) -> None:
    """Check the sizes of a training."""
    if steps < 1 or batch < 1 or not 0 < rate <= LARGEST_RATE:
        raise UserError(
            f"A student cannot be trained in {steps} steps of {batch} texts at rate {rate:g}; "
            f"expected one or more of both, and a rate above 0 and at most {LARGEST_RATE:g}."
        )
    if rank is not None:
        if rank < 1:
            raise UserError(
                f"The rank of the adapters is {rank}; expected 1 or more, or none to train the "
                "weights themselves."
            )
        need_peft()


class StepTexts(NamedTuple):
    """The texts of a step."""

    places: list[int]  # which texts
    own: list[bool]  # of each, whether the student writes it itself
    seeds: list[int]  # of what it writes


@dataclass(frozen=True)
class Training:
    """Settings of a student's training, whichever models there are."""

    examples: Texts  # texts to train on and to test on
    objective: Objective  # what is minimised
    layers: tuple[int, ...] | None  # the layers that are trained, by number; None for all weights
    rank: int | None  # of low-rank adapters; None for none
    batch: int  # texts a step
    steps: int  # number of steps
    rate: float  # largest step size
    seed: int  # of all draws
    memory_budget: int  # bytes for logits

    def step_texts(self, step: int) -> StepTexts:
        """Texts of ``train`` that a step reads."""
        rng = stats.generator(self.seed, f"step {step} of the distillation")
        chosen = rng.permutation(len(self.examples.train))[: self.batch]
        own = (rng.random(len(chosen)) < self.objective.on_policy).tolist()
        return StepTexts(chosen.tolist(), own, rng.integers(2**62, size=len(chosen)).tolist())

    def curve_examples(self) -> list[Example]:
        """The held-out texts that the curve is measured on."""
        # The texts lie task by task, so the first ones would leave the last tasks out.
        held_out = self.examples.held_out
        order = stats.generator(self.seed, "texts of the curve").permutation(len(held_out))
        return [held_out[place] for place in order[:MEASURED]]

    def at_point(self, done: int) -> bool:
        """True if held-out texts are read after so many steps."""
        return done == self.steps or done % -(-self.steps // POINTS) == 0


@dataclass
class Trainer:
    """A student while it is trained: AdamW without weight decay, gradients clipped at norm 1."""

    teacher: Teacher  # whose predictions are trained on
    student: Student  # the model that is trained
    tokenizer: Any  # of what the student writes itself
    training: Training  # texts, steps and sizes
    done: int = field(default=0, init=False)  # steps done
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)  # the curve

    def __post_init__(self) -> None:
        self.weights = list(self.student.trained.values())
        rate = self.training.rate
        self.optimizer = torch.optim.AdamW(self.weights, lr=rate, weight_decay=0.0)

    def begin(self) -> None:
        """Measure the student as it is, for the first point of the curve."""
        self.rows.append({"step": 0, "held_out_kl": self.held_out_kl()})

    def step(self) -> None:
        """One batch, one step of the weights, one point of the curve."""
        with self._memory(), torch.enable_grad():
            examples, own = self._step_examples()
            row = self._backward(examples, own)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        rate = self.training.rate * schedule(self.done, self.training.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self._refuse_divergence(row["loss"])
        self.rows.append({"step": self.done, "rate": rate, **row})
        if self.training.at_point(self.done):
            self.rows[-1]["held_out_kl"] = self.held_out_kl()

    def _step_examples(self) -> tuple[list[Example], list[bool]]:
        """The texts of a step, and which of them the student wrote itself."""
        places, own, seeds = self.training.step_texts(self.done)
        examples = [self.training.examples.train[place] for place in places]
        own_places = [place for place, written in enumerate(own) if written]
        written = self.student.sample(
            [examples[place] for place in own_places], self.tokenizer,
            [seeds[place] for place in own_places], self.training.memory_budget,
        )  # fmt: skip
        for place, example in zip(own_places, written, strict=True):
            examples[place] = example
        return examples, own

    def _backward(self, examples: Sequence[Example], own: Sequence[bool]) -> dict[str, Any]:
        """Gradients of the loss over a batch; its parts, each a mean over predictions."""
        n_targets = sum(len(example.targets) for example in examples)
        n_given = sum(
            len(example.targets)
            for example, is_own in zip(examples, own, strict=True)
            if not is_own
        )
        objective = self.training.objective
        weights = {
            "divergence": 1.0,
            "cross_entropy": objective.cross_entropy if n_given else 0.0,
            "hidden": objective.hidden,
        }
        parts = dict.fromkeys(weights, 0.0)
        at = 0
        for piece in self._batches_that_fit(examples):
            is_own = torch.tensor(own[at : at + len(piece)])
            at += len(piece)
            batch = self.student.batch(piece)
            apart, entropies, streams = self._losses(batch)
            is_given = ~is_own.to(batch.rows.device)[batch.rows]
            losses = {
                "divergence": apart.sum() / n_targets,
                "cross_entropy": (entropies * is_given).sum() / max(n_given, 1),
                "hidden": streams * (len(piece) / len(examples)),
            }
            weighted = (weights[name] * loss_part for name, loss_part in losses.items())
            loss = sum(weighted, start=apart.new_zeros(()))
            torch.autograd.backward(loss, inputs=self.weights)
            parts = {name: parts[name] + float(losses[name].detach()) for name in parts}
        reported = {name: value if weights[name] else None for name, value in parts.items()}
        whole = sum(weights[name] * value for name, value in parts.items())
        return {"loss": whole, **reported, "n_texts": len(examples), "n_own": sum(own),
                "n_tokens": n_targets}  # fmt: skip

    def _batches_that_fit(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        return batches_that_fit(
            examples, self.teacher.model.cfg.d_vocab, self.training.memory_budget
        )

    def _losses(
        self, batch: PaddedBatch
    ) -> tuple[
        Float[torch.Tensor, " predictions"],
        Float[torch.Tensor, " predictions"],
        Float[torch.Tensor, ""],
    ]:
        """Divergence and cross-entropy of each prediction, and the mean distance of streams."""
        wanted = self.training.objective.hidden > 0
        expected, teacher_streams = self.teacher(batch)
        logits, student_streams = self.student(batch, streams=wanted)
        n = min(expected.shape[-1], logits.shape[-1])
        apart = divergences(expected[:, :n], logits[:, :n], self.training.objective)
        entropies = torch.nn.functional.cross_entropy(
            logits[:, :n].float(), batch.targets, reduction="none"
        )
        if not wanted:
            return apart, entropies, logits.new_zeros(())
        # An encoder's streams are of its tokens, a decoder's of its own.
        n_encoder = n_encoder_layers(self.teacher.model)
        behind = batch.mask if batch.decoder_mask is None else batch.decoder_mask
        masks = [batch.mask if layer < n_encoder else behind for layer in self.teacher.layers]
        streams = zip(teacher_streams, student_streams, masks, strict=True)
        distances = [stream_distance(of[mask], own[mask]) for of, own, mask in streams]
        return apart, entropies, torch.stack(distances).mean()

    @torch.no_grad()
    def held_out_kl(self) -> float:
        """KL(teacher || student) at temperature 1 on held-out texts, nats a token."""
        total = n = 0.0
        with self._memory():
            for examples in self._batches_that_fit(self.training.curve_examples()):
                batch = self.student.batch(examples)
                (expected, _), (logits, _) = self.teacher(batch), self.student(batch)
                size = min(expected.shape[-1], logits.shape[-1])
                log_p, log_q = (raw[:, :size].float().log_softmax(-1) for raw in (expected, logits))
                total += float(kl(log_p, log_q).sum())
                n += len(batch.rows)
        return total / n

    @contextlib.contextmanager
    def _memory(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            said = str(error).lower()
            if isinstance(error, RuntimeError) and not ("out of memory" in said or "alloc" in said):
                raise
            raise UserError(
                f"There is no memory for step {self.done + 1} of the distillation, of "
                f"{self.training.batch} texts: expected more free memory, where the same command "
                "goes on; or choose a smaller batch, or adapters of a low rank, and another folder."
            ) from error

    def _refuse_divergence(self, loss: float) -> None:
        finite = np.isfinite(loss) and all(bool(weight.isfinite().all()) for weight in self.weights)
        if not finite:
            raise UserError(
                f"The distillation diverged at step {self.done} of {self.training.steps}: "
                "expected finite weights and loss; choose a rate below "
                f"{self.training.rate:g}, and another folder."
            )

    def state(self) -> bytes:
        """State needed to go on."""
        return packed_state((self.done, self.rows), self.weights, self.optimizer)

    def resume(self, state: bytes) -> None:
        """Go on from a state."""
        self.done, self.rows = unpack_state(state, self.weights, self.optimizer)


def schedule(step: int, steps: int) -> float:
    """Share of the largest rate: up over a tenth of the steps, 50 at most, then down to 0."""
    rising = min(WARM_UP, max(1, steps // 10))
    return min(1.0, (step + 1) / rising) * (1 - step / steps)
