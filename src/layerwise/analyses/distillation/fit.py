"""Whether a student can learn from a teacher: what does not fit is named, and refused."""

from __future__ import annotations

from layerwise.analyses.transplant.fit import vocabulary_difference
from layerwise.errors import UserError
from layerwise.models.facts import original_tokenizer
from layerwise.models.kinds import Model, decoder_prefix, is_seq2seq
from layerwise.models.offload import OnDisk
from layerwise.models.parity import token_ids

from .losses import Objective


def refuse_strangers(teacher: Model, student: Model, objective: Objective) -> None:
    """Accept only a teacher that says what the student can learn to say."""
    found = _difference(teacher, student, objective)
    if found is not None:
        what, theirs, mine = found
        raise UserError(
            f"The student cannot learn from this teacher: {what} is {theirs} in the teacher and "
            f"{mine} in the student; expected two models with one tokenizer, on one device, whose "
            "next tokens can be compared."
        )
    if any(isinstance(weight, OnDisk) for model in (teacher, student)
           for weight in model.parameters()):  # fmt: skip
        raise UserError(
            "A model's weights are on disk, where a distillation would read them at every step: "
            "expected both models in memory; load them without offload."
        )


def _difference(
    teacher: Model, student: Model, objective: Objective
) -> tuple[str, str, str] | None:
    """What differs, and what it is in either model."""
    both = (teacher, student)
    kinds = ["an encoder-decoder" if is_seq2seq(m) else "decoder-only" for m in both]
    if kinds[0] != kinds[1]:
        return "the kind of model", kinds[0], kinds[1]
    found = vocabulary_difference(teacher, student)
    if found is not None:
        return found
    n_ctx = min(model.cfg.n_ctx for model in both)
    encoded = [token_ids(original_tokenizer(model), n_ctx) for model in both]
    if encoded[0] != encoded[1]:
        return "the beginning of an encoded text", str(encoded[0][:8]), str(encoded[1][:8])
    if decoder_prefix(teacher) != decoder_prefix(student):
        return "the decoder's beginning", *_told(*map(decoder_prefix, both))
    places = [str(model.W_E.device) for model in both]
    if places[0] != places[1] and "meta" not in places:
        return "the device", places[0], places[1]
    widths = [model.cfg.d_model for model in both]
    if objective.hidden and widths[0] != widths[1]:
        return "the width of the residual stream, which its distance needs,", *_told(*widths)
    return None


def _told(teacher: object, student: object) -> tuple[str, str]:
    return str(teacher), str(student)
