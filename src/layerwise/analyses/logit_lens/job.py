"""A planned lens: which tokens of which tasks are read, at which places, piece by piece.

What one reading is, is in ``reading``; the public function with its arguments in
``logit_lens``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from operator import add
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from layerwise.analyses.shared.left_out import left_out
from layerwise.analyses.shared.lens_names import (
    DECODER_LENS,
    LOGIT,
    OF_ENCODER,
    TUNED,
    TUNED_DECODER_LENS,
)
from layerwise.analyses.shared.translators import TunedLens
from layerwise.errors import UserError
from layerwise.models.instance.kinds import decoder_prefix, is_seq2seq, n_encoder_layers
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.dry_sweeps import Sweeper, cost_of_sweeps
from layerwise.runs.pieces import Made, run_resumable
from layerwise.runs.progress import Meter
from layerwise.runs.setup import Setup
from layerwise.storage.parquet import frame
from layerwise.sweep import Generate, LogLikelihood, Scored, intact, residuals_at, skip_layers
from layerwise.sweep.activations.intact_run import Place
from layerwise.sweep.plans.cost import UNKNOWN_LENGTHS, Cost, cost_of_reading
from layerwise.sweep.requests import Tokens
from layerwise.sweep.seq2seq.truncated import truncated_encoder
from layerwise.sweep.walk.engine_run import model_shape
from layerwise.sweep.walk.readout import logits_of
from layerwise.tasks import Task

from .reading import (
    GENERATED,
    PROMPT,
    SITES,
    LensReading,
    Passage,
    blind_requests,
    gold_requests,
    most_tokens,
    passages,
    places_of,
    read_lens,
)
from .result import LensResult

LAST = (-1,)
# Texts whose residual streams are there together, and tokens whose logits are.
AT_ONCE = 64


def refuse_protocols(over: str, protocols: Sequence[str] | None) -> None:
    """Refuse protocols whose tokens are not those that are read."""
    if protocols is None:
        return
    if over == GENERATED:
        if tuple(protocols) != ("generate",):
            raise UserError(
                "Generated text is that of protocol 'generate'; ask for that protocol alone."
            )
    elif "generate" in protocols:
        raise UserError(
            "The logit lens reads the prompt of 'letter' or 'continuation'; "
            "'generate' has the prompt of 'continuation', so ask for that."
        )


@dataclass(frozen=True)
class Lens:
    """A planned lens; one piece per task and protocol.

    Attributes:
        setup: what it starts from.
        sites: of the residual stream.
        over: ``prompt``, ``continuation`` or ``generated``: which tokens are read.
        positions: of the prompt, from its end; all if None.
        strict: refuse a task of which no item can be read.
        tuned: translators that are read through; None for the logit lens.
    """

    setup: Setup
    sites: tuple[str, ...] = ("resid_post",)
    over: str = PROMPT
    positions: tuple[int, ...] | None = LAST
    strict: bool = True
    tuned: TunedLens | None = None

    def __post_init__(self) -> None:
        places_of(self.setup.model, self.sites)
        if self.tuned is not None:
            loaded = self.setup.loaded
            self.tuned.check(loaded.hash, self.sites, (loaded.n_layers, loaded.d_model))
        self._check_positions()
        refuse_protocols(self.over, self.setup.protocols)
        for task, protocol in self.setup.pieces():
            readable = self._n_readable(task, protocol)  # bad input is told before work is done
            if self.strict and not readable:
                raise UserError(
                    f"The logit lens reads the tokens that tell an answer apart, but in task "
                    f"{task.name!r} under protocol {protocol!r} every answer is the beginning of "
                    "another of its choices; use other choices, or another protocol."
                )

    @property
    def name(self) -> str:
        """Which lens it is."""
        return LOGIT if self.tuned is None else TUNED

    def _check_positions(self) -> None:
        if self.over != PROMPT and self.positions != LAST:
            raise UserError(
                f"Positions are those of the prompt, but {self.over!r} is read, every token of "
                "it; leave positions out, or read the prompt."
            )
        model = self.setup.model
        if is_seq2seq(model):
            return self._check_decoder_positions(len(decoder_prefix(model)))
        if self.positions is None:
            return
        if not self.positions or max(self.positions) >= 0:
            raise UserError(
                f"The positions to read are {list(self.positions)}; expected negative numbers, "
                "counted from the end of the prompt (-1 is its last token), or all."
            )

    def _check_decoder_positions(self, n_given: int) -> None:
        if self.positions is None or not set(self.positions) <= set(range(-n_given, 0)):
            raise UserError(
                "Of an encoder-decoder the lens reads the decoder, which begins with "
                f"{n_given} token(s) before the answer: expected positions from -{n_given} to -1; "
                "leave positions out for the last."
            )

    def _n_readable(self, task: Task, protocol: str) -> int:
        return len(self._texts(task, protocol))

    def _texts(self, task: Task, protocol: str) -> list[tuple[Tokens, int]]:
        """The prompts, and how many tokens are likely to be read of each."""
        if self.over == PROMPT:
            read = passages(self.setup, task, protocol, self.over, self.positions)
            return [(text.tokens[: text.n_prompt], len(text.positions)) for text in read]
        requests = gold_requests(self.setup, task, protocol)
        return [most_tokens(request, UNKNOWN_LENGTHS.intact) for request in requests]

    def settings(self) -> dict[str, Any]:
        """What makes it this lens and no other."""
        positions = None if self.positions is None else list(self.positions)
        lens = {"lens": LOGIT} if self.tuned is None else {"lens": TUNED, "tuned": self.tuned.hash}
        return {**lens, "sites": list(self.sites), "over": self.over, "positions": positions}

    def run(self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter) -> LensResult:
        """Make the pieces that are missing, and join all of them."""
        work, (table,) = run_resumable(
            self.setup.executor,
            parts,
            progress,
            "reading layers",
            self.setup.pieces(),
            ("lens",),
            self.expected,
            self._piece,
        )
        return LensResult(table, self.setup.facts(settings, work))

    def expected(self, task: Task, *protocols: str) -> Cost:
        """What it is expected to cost to read a task's items, at every place."""
        return sum((self._expected(task, protocol) for protocol in protocols), start=Cost())

    def _expected(self, task: Task, protocol: str) -> Cost:
        setup = self.setup
        total = cost_of_sweeps(setup, task, partial(self._blind, task, protocol))
        n_places, n_encoder = len(places_of(setup.model, self.sites)), n_encoder_layers(setup.model)
        if self.over == GENERATED:
            written = [request.request for request in gold_requests(setup, task, protocol)]
            for start in range(0, len(written), AT_ONCE):
                total += setup.cost(task, [intact()], written[start : start + AT_ONCE])
        read = self._texts(task, protocol)
        for start in range(0, len(read), AT_ONCE):
            chunk = read[start : start + AT_ONCE]
            pushed = [Generate(context, 0) for context, _ in chunk]
            total += setup.cost(task, [intact()], pushed)
            n_reads = sum(n for _, n in chunk)
            # one row a text is in the cost of pushing it through
            n_rows = max(0, n_reads * n_places - len(chunk))
            if is_seq2seq(setup.model):
                # The runs with an encoder that ends early are as many again as it has layers.
                early = [skip_layers(range(n, n_encoder)) for n in range(n_encoder)]
                total += setup.cost(task, early, pushed)
            else:
                total += cost_of_reading(n_rows, model_shape(setup.model))
        return total

    def _piece(self, task: Task, protocol: str) -> Made:
        started = time.perf_counter()
        read = passages(self.setup, task, protocol, self.over, self.positions)
        order = {passage.item: place for place, passage in enumerate(read)}
        blind = self._blind(task, protocol, self.setup)
        named = {"task": task.name, "capability": task.capability, "protocol": protocol}
        tables = [
            frame("lens", [
                {**named, **row, "blind": blind.get(row["item"])}
                for row in sorted(joined(rows), key=lambda row: _rank(row, order))
            ])
            for rows in self._rows(read)
        ]  # fmt: skip
        why = "the model writes nothing"
        if self.over == PROMPT:
            why = "the answer is the beginning of another choice"
        work = {
            "analysis": "logit lens",
            "task": task.name,
            "protocol": protocol,
            **left_out([item.id for item in task.items if item.id not in order], why),
            "seconds": time.perf_counter() - started,
        }
        return work, {"lens": pd.concat(tables or [frame("lens", [])], ignore_index=True)}

    def _blind(self, task: Task, protocol: str, by: Sweeper) -> dict[str, bool]:
        """Whether items' answers end on top when another item's question is asked, by item id."""
        blind = self._blind_requests(task, protocol)
        if not blind:
            return {}
        (outcomes,) = by.sweep([intact()], [request for request, _ in blind.values()]).outcomes
        greedy = [
            isinstance(outcome, Scored) and all(outcome.token_greedy[deciding])
            for outcome, (_, deciding) in zip(outcomes, blind.values(), strict=True)
        ]
        return dict(zip(blind, greedy, strict=True))

    def _blind_requests(self, task: Task, protocol: str) -> dict[str, tuple[LogLikelihood, slice]]:
        """Other questions are asked where the answer is looked for at the end of a prompt."""
        wanted = self.over == PROMPT and (self.positions is None or LAST[0] in self.positions)
        return blind_requests(self.setup, task, protocol) if wanted else {}

    def _rows(self, read: Sequence[Passage]) -> Iterator[list[dict[str, Any]]]:
        """The rows of all readings, those of passages that are there together at once."""
        model, places = self.setup.model, places_of(self.setup.model, self.sites)
        # what the model itself says is needed everywhere, and read first
        every = [("resid_post", model.cfg.n_layers - 1), *places]
        a_row = len(every) * model.cfg.d_model * model.W_E.element_size()
        for chunk in _chunks(read, max(1, self.setup.memory_budget // 8 // a_row)):
            yield self._rows_together(chunk, every)

    @torch.inference_mode()
    def _rows_together(
        self, chunk: Sequence[Passage], every: Sequence[Place]
    ) -> list[dict[str, Any]]:
        model, budget = self.setup.model, self.setup.memory_budget
        given = (
            [passage.tokens for passage in chunk], [passage.positions for passage in chunk],
        )  # fmt: skip
        prompts = [passage.n_prompt for passage in chunk]
        residuals = residuals_at(model, *given, every, memory_budget=budget, n_prompt=prompts)
        final, *others = residuals
        streams = [
            (self.name, place, self._translated(place, resid))
            for place, resid in zip(every[1:], others, strict=True)
        ]
        if is_seq2seq(model) and "resid_post" in self.sites:
            translate = None if self.tuned is None else self.tuned.translate
            early = truncated_encoder(
                model, *given, prompts, memory_budget=budget, translate=translate
            )
            name = DECODER_LENS if self.tuned is None else TUNED_DECODER_LENS
            streams += [(name, ("resid_post", n - 1), resid) for n, resid in enumerate(early)]
        tokens = [(passage, k) for passage in chunk for k in range(len(passage.positions))]
        return list(self._read(tokens, final, streams))

    def _translated(
        self, place: Place, resid: Float[torch.Tensor, "read d_model"]
    ) -> Float[torch.Tensor, "read d_model"]:
        return resid if self.tuned is None else self.tuned.translate(place, resid)

    def _read(
        self,
        tokens: Sequence[tuple[Passage, int]],
        final: torch.Tensor,
        streams: Sequence[tuple[str, Place, torch.Tensor]],
    ) -> Iterator[dict[str, Any]]:
        """Read streams of some tokens, some of them at once."""
        model = self.setup.model
        for start in range(0, len(tokens), AT_ONCE):
            here = slice(start, start + AT_ONCE)
            targets = [passage.targets[k] for passage, k in tokens[here]]
            wanted = torch.tensor(targets, device=final.device)
            logprobs = torch.log_softmax(logits_of(model, final[here]), dim=-1)
            readings: list[LensReading] = []
            for _, _, stream in streams:
                reading = read_lens(model, stream[here], logprobs, wanted)
                readings.append(reading)
            columns = _on_host(readings)
            for (lens, place, _), values in zip(streams, columns, strict=True):
                yield from self._reading_rows(tokens[here], lens, place, values)

    def _reading_rows(
        self,
        tokens: Sequence[tuple[Passage, int]],
        lens: str,
        place: Place,
        columns: Sequence[list[Any]],
    ) -> Iterator[dict[str, Any]]:
        site, layer = place
        text_of = _decoder(self.setup.tokenizer)
        for (passage, k), *values, top in zip(tokens, *columns, strict=True):
            rank, final_rank, logprob, entropy, kl = values
            yield {
                "item": passage.item,
                "lens": lens,
                "over": self.over,
                "site": site,
                "layer": layer,
                "pos": passage.pos[k],
                "token": text_of(passage.targets[k]),
                "rank": rank,
                "final_rank": final_rank,
                "logprob": logprob,
                "entropy": entropy,
                "kl": kl,
                "top_tokens": [text_of(token) for token in top],
                "options": _n_options(passage, k, top[0], rank),
            }


def _on_host(readings: Sequence[LensReading]) -> Iterator[tuple[list[Any], ...]]:
    """The numbers of readings, each as its columns; the device is waited for once, not by place."""
    names = ("rank", "final_rank", "logprob", "entropy", "kl", "top")
    columns = (torch.stack([getattr(part, name) for part in readings]).tolist() for name in names)
    yield from zip(*columns, strict=True)


def joined(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of several tokens that tell an answer apart as one: all must be on top together."""
    by_key: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("item", "lens", "site", "layer", "pos"))
        by_key.setdefault(key, []).append(row)
    return [same[0] if len(same) == 1 else _as_one(same) for same in by_key.values()]


def _as_one(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst rank, the summed log-probability, the means of the distributions' measures."""
    made = dict(rows[-1])
    for name in ("rank", "final_rank"):
        made[name] = max(row[name] for row in rows)
    for name in ("entropy", "kl"):
        made[name] = sum(row[name] for row in rows) / len(rows)
    for name in ("token", "logprob"):
        made[name] = reduce(add, (row[name] for row in rows))
    made["options"] = None if made["options"] is None else min(row["options"] for row in rows)
    return made


def _chunks(read: Sequence[Passage], most: int) -> Iterator[list[Passage]]:
    """Passages whose residual streams are there together; at least one."""
    chunk: list[Passage] = []
    n_reads = 0
    for passage in read:
        n_more = len(passage.positions)
        if chunk and (len(chunk) == AT_ONCE or n_reads + n_more > most):
            yield chunk
            chunk, n_reads = [], 0
        chunk.append(passage)
        n_reads += n_more
    if chunk:
        yield chunk


def _rank(row: dict[str, Any], order: dict[str, int]) -> tuple[int, ...]:
    """Where a row stands, however the passages were cut in chunks."""
    later = int(row["lens"] in OF_ENCODER)
    return order[row["item"]], row["pos"], later, row["layer"], SITES.index(row["site"])


def _n_options(passage: Passage, k: int, top: int, rank: int) -> int | None:
    """How many choices the token on top belongs to one of; 0 if it is in none of them."""
    if not passage.options:
        return None
    return passage.n_options if rank == 0 or top in passage.options[k] else 0


def _decoder(tokenizer: Any) -> Any:
    return cache(lambda token: tokenizer.decode([token]))
