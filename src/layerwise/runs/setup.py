"""Start of every analysis: a model, loaded tasks, protocols, a seed, all checked."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Unpack

from layerwise.errors import LongAnswersWarning, UnusedSettingsWarning, UserError
from layerwise.ground.layer_names import layer_number
from layerwise.models import LoadedFacts, model_facts, original_tokenizer
from layerwise.models.huggingface.originals import refuse_nonfinite
from layerwise.models.instance.facts import (
    generation_settings,
    refuse_changed_weights,
    tokenizer_hash,
    tokenizer_language,
)
from layerwise.models.instance.kinds import Model, is_seq2seq, n_encoder_layers, vocabularies
from layerwise.models.meta_model import is_meta_model, meta_model_facts
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.storage.provenance import Facts, ModelFacts, TaskFacts, read_run_file
from layerwise.sweep import Intervention, Sweep, sweep
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.packed.blocks import attention_in_use
from layerwise.sweep.plans.cost import UNKNOWN_LENGTHS, Cost, TextLengths, sweep_cost
from layerwise.sweep.plans.memory import SMALLEST, default_memory_budget
from layerwise.sweep.requests import LogLikelihood, Request, refuse_unknown_tokens
from layerwise.sweep.run import model_shape, plan_for_model
from layerwise.sweep.walk.engine import TOKENS_AT_ONCE
from layerwise.tasks import (
    PatchingPrompts,
    Task,
    TaskRequest,
    build_requests,
    patching_prompts,
    with_room,
)
from layerwise.tasks._encoding import ByteLevel
from layerwise.tasks.items import Item
from layerwise.tasks.pairs import check_room
from layerwise.tasks.registry import paired_names
from layerwise.tasks.task import for_chat, take

from .encoding import EncodingCache, memory_in_tokens
from .executors import LOCAL, Executor
from .options import DEFAULTS, RunOptions
from .progress import sweep_progress
from .task_loading import TaskLike as TaskLike
from .task_loading import load_tasks as load_tasks
from .task_loading import refuse_unknown_words, without_long_items

Enough = Callable[[Sequence[Task], int, int], int]
"""Items of each of some tasks that are enough, under so many protocols, for so many layers."""


@dataclass(frozen=True)
class Setup:
    """Checked model, tasks and options of an analysis."""

    model: Any
    loaded: LoadedFacts
    tokenizer: Any  # as Hugging Face loaded it
    tasks: tuple[Task, ...]  # the tasks, cut to the wanted number of items
    protocols: tuple[str, ...]
    seed: int  # the seed of everything random
    chat: bool  # whether prompts are wrapped in the chat template
    memory_budget: int  # bytes for activations, keys and values
    tokens_at_once: int  # how many tokens are pushed through a block at once
    interest: SmallestEffects = field(
        default_factory=SmallestEffects
    )  # the smallest effects of interest
    # How long texts are expected to be, by task; half of what is allowed elsewhere.
    lengths: dict[str, TextLengths] = field(default_factory=dict, repr=False, compare=False)
    # What was encoded so far, by setups made from this one too.
    built: EncodingCache = field(default_factory=EncodingCache, repr=False, compare=False)
    executor: Executor = field(default=LOCAL, repr=False, compare=False)  # makes the pieces
    # Items that were left out as the model has no room for them, by task.
    too_long: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)
    # Set-ups of further models, which belong to the run.
    beside: tuple[Setup, ...] = field(default=(), repr=False, compare=False)

    def pieces(self) -> list[tuple[Task, str]]:
        """Every task under every protocol."""
        return list(product(self.tasks, self.protocols))

    def requests(self, task: Task, item: Item, protocol: str) -> tuple[TaskRequest, ...]:
        """The requests of one item; encoded once for all analyses."""
        model, tokenizer, chat = self.model, self.tokenizer, self.chat

        def encode() -> tuple[TaskRequest, ...]:
            n_ctx, apart = model.cfg.n_ctx, is_seq2seq(model)
            made = build_requests(
                task, item, protocol, tokenizer, chat=chat, max_length=n_ctx, apart=apart
            )
            refuse_unknown_tokens([request.request for request in made], *vocabularies(model))
            if chat:
                self.built.refuse_changed_requests(task, item, made)
            return made

        key = (tokenizer, chat, task.hash, item.id, protocol)
        return self.built.get_or_encode(key, encode, memory_in_tokens)

    def refuse(self, task: Task, item: Item, protocol: str) -> None:
        """Refuse an item that cannot be put to the model; encode it only if that is in doubt."""
        n_known = min(vocabularies(self.model))
        known: ByteLevel | None = self.built.get_or_encode_kept(
            (self.tokenizer, "bytes"), lambda: ByteLevel.from_tokenizer(self.tokenizer, n_known)
        )
        if (
            known is None
            or self.chat
            or is_seq2seq(self.model)
            or not known.surely_fits(task, item, protocol, self.model.cfg.n_ctx)
        ):
            self.requests(task, item, protocol)

    def refuse_items(self, task: Task) -> None:
        """Refuse a task that has an item which cannot be put to the model under a protocol."""
        for item in task.items:
            for protocol in self.protocols:
                self.refuse(task, item, protocol)

    def pair(self, task: Task, item: Item) -> PatchingPrompts | None:
        """The two prompts of an item that are patched between; None if it has no corruption."""

        def encode() -> PatchingPrompts | None:
            made = patching_prompts(task, item, self.tokenizer, apart=is_seq2seq(self.model))
            if made is not None:
                both = LogLikelihood(made.clean, (), made.corrupted)
                refuse_unknown_tokens([both], *vocabularies(self.model))
            return made

        def n_tokens(made: PatchingPrompts | None) -> int:
            return len(made.clean) + len(made.corrupted) if made else 1

        return self.built.get_or_encode(
            (self.tokenizer, "pair", task.hash, item.id), encode, n_tokens
        )

    def refuse_long_pair(self, task: Task, item: Item, protocol: str = "continuation") -> None:
        """Refuse an item one of whose two prompts the model has no room for."""
        prompts = self.pair(task, item)
        if prompts is not None:
            check_room(task, prompts, self.model.cfg.n_ctx)

    def sweep(
        self,
        interventions: Sequence[Intervention],
        requests: Sequence[Request],
        method: str = "engine",
    ) -> Sweep:
        """Put requests to the model under interventions."""
        return sweep(
            self.model,
            interventions,
            requests,
            tokenizer=self.tokenizer,
            method=method,
            memory_budget=self.memory_budget,
            tokens_at_once=self.tokens_at_once,
            progress=sweep_progress(),
        )

    def cost(
        self,
        task: Task | None,
        interventions: Sequence[Intervention],
        requests: Sequence[Request],
    ) -> Cost:
        """Cost of putting requests of a task, or of none, to the model under interventions."""
        plan = plan_for_model(self.model, interventions, requests, self.memory_budget)
        known = None if task is None else self.lengths.get(task.name)
        return sweep_cost(
            plan,
            interventions,
            requests,
            model_shape(self.model),
            tokens_at_once=self.tokens_at_once,
            memory_budget=self.memory_budget,
            lengths=known or UNKNOWN_LENGTHS,
        )

    def settings(self, **more: Any) -> dict[str, Any]:
        """Settings that identify a run, as plain JSON values."""
        # End tokens are named if they are not just the tokenizer's.
        ends = generation_settings(self.model).end_tokens
        unusual = "generate" in self.protocols and ends not in ((), (self.tokenizer.eos_token_id,))
        # What the weights of further models are, the analysis says.
        beside = {setup.loaded.name: setup._files() for setup in self.beside}
        return {
            "model": self.loaded.name,
            "model_hash": self.loaded.hash,
            **self._files(),
            "dtype": self.loaded.dtype,
            "device": self.loaded.device,
            "tasks": {task.name: f"{len(task.items)} items, {task.hash}" for task in self.tasks},
            "tasks_as_read": {task.name: task.result_properties for task in self.tasks},
            "prompts_hash": self._prompts_hash(),
            "protocols": list(self.protocols),
            "seed": self.seed,
            "chat": self.chat,
            "memory_budget": self.memory_budget,
            "tokens_at_once": self.tokens_at_once,
            **({"end_tokens": list(ends)} if unusual else {}),
            **self.interest.settings(),
            **({"beside": beside} if beside else {}),
            **more,
        }

    def _files(self) -> dict[str, Any]:
        """Hashes of the model's source and of its tokenizer."""
        source = {"source_hash": self.loaded.source_hash} if self.loaded.source_hash else {}
        return source | {"tokenizer_hash": tokenizer_hash(self.tokenizer)}

    def _prompts_hash(self) -> str:
        """SHA-256 over what the items are put to the model as, in hexadecimal."""
        # Without a chat template, which may read the clock, tasks and tokenizer decide it, and a
        # first item tells whether they still do.
        digest = hashlib.sha256()
        for task, protocol in self.pieces():
            for item in task.items if self.chat else task.items[:1]:
                with contextlib.suppress(UserError):  # an analysis that asks it says so
                    requests = self.requests(task, item, protocol)
                    digest.update(repr([request.request for request in requests]).encode())
        return digest.hexdigest()

    def refuse_changed(self) -> None:
        """Refuse weights that are not those that the run began with."""
        for setup in (self, *self.beside):
            refuse_changed_weights(setup.loaded, setup.model)

    def facts(self, settings: dict[str, Any], work: Sequence[dict[str, Any]] = ()) -> Facts:
        """The facts that go with a result."""
        tasks = [
            TaskFacts(
                name=task.name,
                capability=task.capability,
                description=task.description,
                hash=task.hash,
                n_items=len(task.items),
                n_available=len(task.items) + len(task.unasked),
                n_fewshot=task.n_fewshot,
                chance=dict(task.chance),
                source=task.source,
                too_long=self.too_long.get(task.name, ()),
                extractor=task.generate.extractor if "generate" in task.chance else "",
            )
            for task in self.tasks
        ]
        return Facts(
            model=run_model_facts(self.loaded, self.model),
            tasks=tuple(tasks),
            protocols=self.protocols,
            seed=self.seed,
            settings=settings,
            work=tuple(work),
        )


def run_model_facts(loaded: LoadedFacts, model: Model) -> ModelFacts:
    """The facts of a model that go with a result."""
    known = {key: value for key, value in asdict(loaded).items() if key in ModelFacts.model_fields}
    generation = generation_settings(model)
    return ModelFacts(
        attention=attention_in_use(model),
        end_tokens=generation.end_tokens,
        unused_generation_settings=generation.unused,
        **known,
    )


def prepare_model(model: Model, *, method: str = "engine", **run: Unpack[RunOptions]) -> Setup:
    """Check what an analysis starts from that asks no task."""
    # What is not given and decides how a sweep is cut, and so its rounding, is taken from the run
    # that is to go on in ``out``; otherwise the memory from what is free on this machine now.
    given: dict[str, Any] = {**DEFAULTS, **run}
    executor = given["executor"] or LOCAL
    executor.admit(model)
    if is_meta_model(model):
        loaded = meta_model_facts(model)
    else:
        loaded = model_facts(model)
        # Weights may have been edited since they were loaded.
        refuse_nonfinite(loaded.name, model)
        check_faithful(model, method)
    before: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # told when the folder is opened
        before = read_run_file(Path(given["out"]))["settings"] if given["out"] else {}
    known = {key: value for key, value in before.items() if type(value) is int}
    memory = (
        given["memory_budget"]
        or known.get("memory_budget")
        or max(SMALLEST, default_memory_budget(loaded.device) // executor.beside)
    )
    return Setup(
        model, loaded, original_tokenizer(model), (), (), given["seed"], given["chat"], memory,
        known.get("tokens_at_once") or TOKENS_AT_ONCE, executor=executor,
    )  # fmt: skip


def prepare(
    model: Model,
    tasks: TaskLike | Sequence[TaskLike] | None,
    protocols: str | Sequence[str],
    *,
    paired: bool = False,
    method: str = "engine",
    interest: SmallestEffects | None = None,
    enough: Enough | None = None,
    **run: Unpack[RunOptions],
) -> Setup:
    """Load and check what an analysis starts from; ``paired`` if it asks pairs of prompts."""
    given: dict[str, Any] = {**DEFAULTS, **run}
    executor, limit, seed = given["executor"] or LOCAL, given["limit"], given["seed"]
    executor.admit(model)
    wanted = _as_sequence(protocols)
    tokenizer = original_tokenizer(model)
    language = tokenizer_language(tokenizer)
    if tasks is None:
        tasks = paired_names(language) if paired else "all"
    loaded_tasks = load_tasks(
        _as_sequence(tasks), seed=seed, limit=limit, fewshot=given["fewshot"],
        language=language,
    )  # fmt: skip
    if not wanted or not loaded_tasks:
        raise UserError("Nothing to do: name at least one task and one protocol.")
    if limit is None and enough is not None:
        limit = enough(loaded_tasks, len(set(wanted)), model.cfg.n_layers)
        loaded_tasks = tuple(take(task, limit) for task in loaded_tasks)
    if given["chat"]:
        loaded_tasks = tuple(map(for_chat, loaded_tasks))
    alone = prepare_model(model, method=method, **run)
    refuse_unknown_words(tokenizer, loaded_tasks)
    if "generate" in wanted:
        _warn_of_unused_settings(generation_settings(model).unused)
        loaded_tasks = _with_room(loaded_tasks, tokenizer, apart=is_seq2seq(model))
    names, effects = tuple(dict.fromkeys(wanted)), interest or SmallestEffects()
    setup = replace(alone, tasks=loaded_tasks, protocols=names, interest=effects)
    if not given["skip_long"]:
        return setup
    kept, too_long = without_long_items(
        setup.pieces(), setup.refuse_long_pair if paired else setup.refuse
    )
    return replace(setup, tasks=kept, too_long=too_long)


def _warn_of_unused_settings(unused: Sequence[str]) -> None:
    """Warn that a model's own ``generate`` would write other texts."""
    if unused:
        warnings.warn(
            f"Texts are plain greedy here: {', '.join(unused)} of the model's generation settings "
            "is not used, so that its own generate() may write other texts.",
            UnusedSettingsWarning,
            stacklevel=4,
        )


def _with_room(tasks: Sequence[Task], tokenizer: Any, *, apart: bool) -> tuple[Task, ...]:
    """The tasks, each with room for its longest answer in a model's tokens."""
    roomy = tuple(with_room(task, tokenizer, apart=apart) for task in tasks)
    longer = [f"{task.name!r} from {task.generate.max_tokens} to {task.max_tokens} tokens"
              for task in roomy if task.answer_tokens]  # fmt: skip
    if longer:
        warnings.warn(
            f"Texts may be longer than their tasks say, as the longest answer is in this model's "
            f"tokens: {', '.join(longer)}.",
            LongAnswersWarning,
            stacklevel=4,
        )
    return roomy


def _as_sequence(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, (str, Task)) else tuple(value)


def check_layers(layers: Sequence[int | str] | None, model: Model) -> tuple[int, ...]:
    """The wanted layers by number in the order of computation, all if None."""
    n_layers, n_encoder = model.cfg.n_layers, n_encoder_layers(model)
    given = range(n_layers) if layers is None else layers
    numbers = [
        layer_number(layer, n_encoder, n_layers) if isinstance(layer, str) else layer
        for layer in given
    ]
    wanted = tuple(dict.fromkeys(numbers))
    for layer in wanted:
        if not 0 <= layer < n_layers:
            raise UserError(
                f"Layer {layer} is out of range: the model has layers 0 to {n_layers - 1}."
            )
    if not wanted:
        raise UserError("No layers are left to change; name at least one.")
    return wanted
