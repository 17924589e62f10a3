"""A planned lens: which tokens of which tasks are read, at which places, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pandas as pd
import torch

from layerwise.analyses.shared.left_out import exclusion_entry
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
from layerwise.storage.parquet import conform, frame
from layerwise.storage.schemas import SCHEMAS
from layerwise.sweep import Generate, Scored, intact, residuals_at, skip_layers
from layerwise.sweep.activations.intact_run import Place
from layerwise.sweep.activations.streams import truncated_encoder
from layerwise.sweep.plans.cost import UNKNOWN_LENGTHS, Cost, unembedding_cost
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.engine_run import model_shape
from layerwise.sweep.walk.readout import final_logits
from layerwise.tasks import Task

from .reading import (
    GENERATED,
    PROMPT,
    SITES,
    Passage,
    blind_requests,
    gold_requests,
    lens_places,
    passages,
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
    """A planned lens; one piece per task and protocol."""

    setup: Setup
    sites: tuple[str, ...] = ("resid_post",)
    over: str = PROMPT
    positions: tuple[int, ...] | None = LAST
    strict: bool = True
    tuned: TunedLens | None = None

    def __post_init__(self) -> None:
        lens_places(self.setup.model, self.sites)
        if self.tuned is not None:
            loaded = self.setup.loaded
            self.tuned.check(loaded.hash, self.sites, (loaded.n_layers, loaded.d_model))
        self._check_positions()
        refuse_protocols(self.over, self.setup.protocols)
        for task, protocol in self.setup.pieces():
            texts = self._texts(task, protocol)  # bad input is told before work is done
            if self.strict and not texts:
                raise UserError(
                    f"The logit lens reads the tokens that tell an answer apart, but in task "
                    f"{task.name!r} under protocol {protocol!r} every answer is the beginning of "
                    "another of its choices; use other choices, or another protocol."
                )

    def _check_positions(self) -> None:
        if self.over != PROMPT and self.positions != LAST:
            raise UserError(
                f"Positions are those of the prompt, but {self.over!r} is read, every token of "
                "it; leave positions out, or read the prompt."
            )
        model = self.setup.model
        if is_seq2seq(model):
            n_given = len(decoder_prefix(model))
            if self.positions is None or not set(self.positions) <= set(range(-n_given, 0)):
                raise UserError(
                    "Of an encoder-decoder the lens reads the decoder, which begins with "
                    f"{n_given} token(s) before the answer: expected positions from -{n_given} to "
                    "-1; leave positions out for the last."
                )
        elif self.positions is not None and max(self.positions, default=0) >= 0:
            raise UserError(
                f"The positions to read are {list(self.positions)}; expected negative numbers, "
                "counted from the end of the prompt (-1 is its last token), or all."
            )

    def _texts(self, task: Task, protocol: str) -> list[tuple[Tokens, int]]:
        """The prompts, and how many tokens are likely to be read of each."""
        if self.over == PROMPT:
            read = passages(self.setup, task, protocol, self.over, self.positions)
            return [(text.tokens[: text.n_prompt], len(text.positions)) for text in read]
        texts = []
        for request in (gold.request for gold in gold_requests(self.setup, task, protocol)):
            if isinstance(request, Generate):
                n = max(1, round(request.max_tokens * UNKNOWN_LENGTHS.intact))
            else:
                n = len(request.continuation)
            texts.append((request.context, n))
        return texts

    def settings(self) -> dict[str, Any]:
        """Settings that make it this lens and no other."""
        positions = None if self.positions is None else list(self.positions)
        lens = {"lens": LOGIT} if self.tuned is None else {"lens": TUNED, "tuned": self.tuned.hash}
        return {**lens, "sites": list(self.sites), "over": self.over, "positions": positions}

    def run(self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter) -> LensResult:
        """Make the pieces that are missing, and join all of them."""
        work, (table,) = run_resumable(
            self.setup.executor, parts, progress, "reading layers", self.setup.pieces(), ["lens"],
            self.expected_cost, self._piece,
        )  # fmt: skip
        return LensResult(table, self.setup.facts(settings, work))

    def expected_cost(self, task: Task, *protocols: str) -> Cost:
        """Expected cost of reading a task's items, at every place."""
        return sum((self._protocol_cost(task, protocol) for protocol in protocols), start=Cost())

    def _protocol_cost(self, task: Task, protocol: str) -> Cost:
        setup = self.setup
        total = cost_of_sweeps(setup, task, partial(self._blind, task, protocol))
        n_places, n_encoder = (
            len(lens_places(setup.model, self.sites)),
            n_encoder_layers(setup.model),
        )
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
                total += unembedding_cost(n_rows, model_shape(setup.model))
        return total

    def _piece(self, task: Task, protocol: str) -> Made:
        started = time.perf_counter()
        read = passages(self.setup, task, protocol, self.over, self.positions)
        items = [passage.item for passage in read]
        blind = self._blind(task, protocol, self.setup)
        named = {"task": task.name, "capability": task.capability, "protocol": protocol}
        tables, model = [frame("lens", [])], self.setup.model
        # what the model itself says is needed everywhere, and read first
        every = [("resid_post", model.cfg.n_layers - 1), *lens_places(model, self.sites)]
        a_row = len(every) * model.cfg.d_model * model.W_E.element_size()
        for chunk in _chunks(read, max(1, self.setup.memory_budget // 8 // a_row)):
            seen = self._readings(chunk, every)
            known = pd.array([blind.get(item) for item in seen["item"]], dtype="boolean")
            ordered = _sort_readings(
                combine_answer_tokens(seen.assign(**named, blind=known)), items
            )
            tables.append(conform("lens", ordered.reindex(columns=SCHEMAS["lens"].names)))
        why = "the model writes nothing"
        if self.over == PROMPT:
            why = "the answer is the beginning of another choice"
        work = {
            "analysis": "logit lens",
            "task": task.name,
            "protocol": protocol,
            **exclusion_entry([item.id for item in task.items if item.id not in set(items)], why),
            "seconds": time.perf_counter() - started,
        }
        return work, {"lens": pd.concat(tables, ignore_index=True)}

    def _blind(self, task: Task, protocol: str, by: Sweeper) -> dict[str, bool]:
        """True, by item id, where an answer ends on top when another question is asked."""
        # Other questions are asked where the answer is looked for at the end of a prompt.
        wanted = self.over == PROMPT and (self.positions is None or LAST[0] in self.positions)
        blind = blind_requests(self.setup, task, protocol) if wanted else {}
        if not blind:
            return {}
        (outcomes,) = by.sweep([intact()], [request for request, _ in blind.values()]).outcomes
        greedy = [
            isinstance(outcome, Scored) and all(outcome.token_greedy[deciding])
            for outcome, (_, deciding) in zip(outcomes, blind.values(), strict=True)
        ]
        return dict(zip(blind, greedy, strict=True))

    @torch.inference_mode()
    def _readings(self, chunk: Sequence[Passage], every: Sequence[Place]) -> pd.DataFrame:
        """The readings of passages whose streams are there together."""
        model, budget = self.setup.model, self.setup.memory_budget
        given = [passage.tokens for passage in chunk], [passage.positions for passage in chunk]
        prompts = [passage.n_prompt for passage in chunk]
        final, *others = residuals_at(model, *given, every, memory_budget=budget, n_prompt=prompts)
        translate, own, of_encoder = None, LOGIT, DECODER_LENS
        if self.tuned is not None:
            translate, own, of_encoder = self.tuned.translate, TUNED, TUNED_DECODER_LENS
        streams = [
            ((own, *place), translate(place, resid) if translate else resid)
            for place, resid in zip(every[1:], others, strict=True)
        ]
        if is_seq2seq(model) and "resid_post" in self.sites:
            early = truncated_encoder(
                model, *given, prompts, memory_budget=budget, translate=translate
            )
            streams += [((of_encoder, "resid_post", n - 1), one) for n, one in enumerate(early)]
        tokens = [(passage, k) for passage in chunk for k in range(len(passage.positions))]
        return pd.concat(
            [
                self._lens_readings(tokens[start : start + AT_ONCE], final[start : start + AT_ONCE],
                           [(place, one[start : start + AT_ONCE]) for place, one in streams])
                for start in range(0, len(tokens), AT_ONCE)
            ],
            ignore_index=True,
        )  # fmt: skip

    def _lens_readings(
        self,
        tokens: Sequence[tuple[Passage, int]],
        final: torch.Tensor,
        streams: Sequence[tuple[tuple[str, str, int], torch.Tensor]],
    ) -> pd.DataFrame:
        """Readings of some tokens by the lens, stream by stream."""
        model, text_of = self.setup.model, cache(lambda token: self.setup.tokenizer.decode([token]))
        targets = torch.tensor([passage.targets[k] for passage, k in tokens], device=final.device)
        logprobs = torch.log_softmax(final_logits(model, final), dim=-1)
        readings = []
        for _, stream in streams:
            reading = read_lens(model, stream, logprobs, targets)
            readings.append(reading)
        # The device is waited for once, not by place.
        columns = {
            name: torch.cat([reading[name] for reading in readings]).tolist()
            for name in readings[0]
        }
        top = columns.pop("top")
        places = pd.DataFrame([place for place, _ in streams], columns=["lens", "site", "layer"])
        read = pd.DataFrame(
            [(passage.item, passage.pos[k], text_of(passage.targets[k])) for passage, k in tokens],
            columns=["item", "pos", "token"],
        )
        options = [
            _n_options(passage, k, first, rank)
            for (passage, k), (first, *_), rank in zip(
                list(tokens) * len(streams), top, columns["rank"], strict=True
            )
        ]
        return places.merge(read, how="cross").assign(
            **columns, over=self.over, options=pd.array(options, dtype="Int64"),
            top_tokens=[list(map(text_of, ids)) for ids in top],
        )  # fmt: skip


def combine_answer_tokens(readings: pd.DataFrame) -> pd.DataFrame:
    """Several tokens that tell an answer apart as one: all must be on top together."""
    key = ["item", "lens", "site", "layer", "pos"]
    if not readings.duplicated(key).any():
        return readings
    how = dict.fromkeys(readings.columns.drop(key), "last")
    how |= dict.fromkeys(("rank", "final_rank"), "max") | dict.fromkeys(("entropy", "kl"), "mean")
    how |= dict.fromkeys(("token", "logprob"), "sum") | {"options": "min"}
    return readings.groupby(key, sort=False, as_index=False).agg(how)


def _sort_readings(readings: pd.DataFrame, items: Sequence[str]) -> pd.DataFrame:
    """By item, position and layer, however passages were cut in chunks; lenses of encoders last."""
    place_of = {item: place for place, item in enumerate(items)}
    order = pd.DataFrame({
        "item": [place_of[item] for item in readings["item"]],
        "pos": readings["pos"],
        "later": readings["lens"].isin(OF_ENCODER),
        "layer": readings["layer"],
        "site": [SITES.index(site) for site in readings["site"]],
    }, index=readings.index)  # fmt: skip
    return readings.loc[order.sort_values(list(order), kind="stable").index]


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


def _n_options(passage: Passage, k: int, top: int, rank: int) -> int | None:
    """Number of choices that the token on top belongs to; 0 if it is in none of them."""
    if not passage.options:
        return None
    return passage.n_options if rank == 0 or top in passage.options[k] else 0
