"""Logit lens: at which layer the answer can be read from the residual stream.

Reads the residual stream through the model's own final norm, unembedding and soft-cap
(nostalgebraist 2020, "interpreting GPT: the logit lens"); ``docs/lenses.md`` has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Unpack

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.analyses.shared.lens_names import LENSES, LOGIT, TUNED
from layerwise.analyses.shared.translators import AnyLens, TunedLens
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.errors import UserError
from layerwise.ground.argument_types import ExpectedWords, Heads, SomeNames, known_name_validator
from layerwise.ground.arguments import Argument, select_options
from layerwise.ground.readers import Reads
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.runs.options import PromptOptions, RunOptions
from layerwise.runs.setup import prepare

from .job import Lens, refuse_protocols
from .reading import GENERATED, OVER, SITES
from .result import LensResult

_NUMBERS = Annotated[Heads, ExpectedWords("a list of whole numbers", "[-2, -1], or 'all'")]


def read_positions(name: str, value: Any) -> str | Sequence[int]:
    """Read positions of a prompt: ``"all"``, or numbers counted from its end."""
    return value if isinstance(value, str) else Argument(name, _NUMBERS).read(value)


Positions = Annotated[str | Sequence[int], Reads(read_positions, "str | Sequence[int]")]
LENS_PROTOCOLS = ("letter", "continuation")


def refuse_unread_lens(lens: str, tuned: object) -> None:
    """Refuse a tuned lens that would not be read with."""
    if lens == LOGIT and tuned is not None:
        raise UserError(
            "A tuned lens was given, but the lens to read with is 'logit'; expected 'tuned' with "
            "it, so ask for that or leave the tuned lens out."
        )


@check_arguments(refuse_unread_lens, refuse_protocols)
@exclusive
def logit_lens(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols | None = None,
    *,
    lens: Annotated[str, known_name_validator("lens", LENSES)] = "logit",
    tuned: AnyLens | None = None,
    sites: Annotated[SomeNames, known_name_validator("site of the lens", SITES)] = "resid_post",
    over: Annotated[str, known_name_validator("kind of tokens to read", OVER)] = "prompt",
    positions: Positions = (-1,),
    **run: Unpack[RunOptions],
) -> LensResult:
    """Read the answer from the residual stream after every layer (logit or tuned lens).

    Args:
        protocols: ``letter`` or ``continuation``: whose prompt is read; both if None. The prompt
            of ``generate`` is that of ``continuation``; generated text has ``generate`` alone.
        lens: ``logit``, or ``tuned``, which translates each residual stream first. For
            encoder-decoders also ``decoder``: the whole decoder reads the encoder's layers
            (Langedijk et al. 2023, arXiv:2310.03686; exact). Or ``tuned decoder``, a trained probe.
        tuned: the tuned lens of ``train_lens``, its file or its folder. If None and ``lens`` needs
            one, it is trained first with the defaults and not kept.
        sites: ``resid_pre``, ``resid_mid``, ``resid_post``, one or several.
        over: ``prompt``: at positions of the prompt, the tokens that tell the answer from the
            other choices (the first, or those behind what all share). ``continuation``: each
            token of the answer where it is predicted. ``generated``: each token of the intact
            model's own greedy text.
        positions: of the prompt, counted from its end (-1 is the last token), or ``"all"``.

    Returns:
        One row per task, protocol, item, position, site and layer; layer -1 of ``resid_post``
        is what enters the first layer.

    Raises:
        UserError: for anything unknown, or a task of which no item can be read because the
            answer is the beginning of a distractor.
    """
    if protocols is None:
        protocols = ("generate",) if over == GENERATED else LENS_PROTOCOLS
    refuse_unread_lens(lens, tuned)
    if isinstance(positions, str) and positions != "all":
        raise UserError(
            f"Cannot read positions {positions!r}: expected negative numbers, counted from the "
            "end of the prompt, or 'all'."
        )
    places = None if isinstance(positions, str) else tuple(sorted(set(positions)))
    setup = prepare(model, tasks, protocols, **run)
    job = Lens(setup, tuple(sites), over, places)
    if lens == TUNED:
        if tuned is None:
            alike = select_options(PromptOptions, run)
            tuned = train_lens(model, tasks, progress=run["progress"], **alike).lens
        elif not isinstance(tuned, TunedLens):
            tuned = TunedLens.load(tuned)
        job = replace(job, tuned=tuned)
    return execute_job(job, LensResult, "logit lens", run)
