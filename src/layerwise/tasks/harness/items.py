"""Documents of a harness's task as items, asked by the protocol of its type, and its verdicts.

What is put to the model are the strings of the harness's requests, so scores are the harness's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from string import ascii_letters, digits
from typing import Any

from layerwise.errors import UserError, count_noun, short_repr, unknown_name
from layerwise.tasks._lines import is_whole
from layerwise.tasks.items import Item, cluster_repeats, guessing_chance
from layerwise.tasks.task import GenerateSpec, Task, Template, one_line_answers

from .bounded import error_reason, isolated_templates, quiet


@dataclass(frozen=True)
class HarnessJudge:
    """Says whether a text is right, by a task's own filters and metric."""

    theirs: Any = field(repr=False)  # the harness's task
    documents: Mapping[str, Any] = field(repr=False)  # its documents by item id
    filter: str  # name of its filter
    metric: str  # name of its metric, which is 1 for a right answer
    # What loads it elsewhere, with its arguments; None of a task object's judge.
    loaded_by: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the task's name: functions of a task cannot be pickled, and data are large."""
        if self.loaded_by is None:
            raise UserError(
                f"The task object {self.theirs.task_name!r} of lm-evaluation-harness cannot go to "
                "other processes; expected a task by name, such as lm-eval:mine.yaml; name it, or "
                "run without Ray."
            )
        return self.loaded_by

    def __call__(self, item: Item, text: str) -> tuple[bool, str | None]:
        """True if a text is right, and the answer that was taken from it."""
        from lm_eval.api.instance import Instance

        # The control that asks another item's question names it behind the item's own id.
        document = self.documents[item.id.partition(" asked ")[0]]
        instance = Instance("generate_until", document, ("", {}), 0)
        instance.resps = [text] * (self.theirs.config.repeats or 1)
        (pipeline,) = [one for one in self.theirs._filters if one.name == self.filter]
        try:
            with quiet(isolated_templates(self.theirs)):
                pipeline.apply([instance])
                taken = instance.filtered_resps[self.filter]
                value = self.theirs.process_results(document, [taken])[self.metric]
        except UserError:
            raise
        except Exception as error:
            raise _unsupported_error(
                self.theirs.task_name, f"cannot judge a text ({error_reason(error)})",
                "a metric that says 0 or 1, and the packages that it needs",
            ) from error  # fmt: skip
        return bool(value == 1), taken if isinstance(taken, str) else repr(taken)


# The harness's own default for few-shot examples.
_FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class _TaskItems:
    """Items and template that a type of task makes of its documents."""

    items: list[Item]  # those that can be asked
    template: Template
    lettered: bool = False  # whether the options can be listed with letters
    generate: GenerateSpec | None = None  # how answers are written; None for one line
    judge: HarnessJudge | None = None  # of written answers; None for the extractor
    suffix: str = ""  # what of the name's arguments decides about scores


def as_task(
    theirs: Any, arguments: Mapping[str, str], name: str, seed: int, fewshot: int | None
) -> Task:
    """One of the harness's tasks as ours."""
    kind = theirs.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        # A perplexity belongs to all its words together: no item is right or wrong by it.
        raise UserError(
            f"Task {name!r} measures the perplexity of texts, and no item of it is right or wrong; "
            "expected a task with an accuracy; run it in the harness with layerwise.lm_eval.LM."
        )
    if kind not in _MAKERS:
        raise _unsupported_error(name, f"is of type {kind}", f"one of {', '.join(_MAKERS)}")
    examples = _build(theirs, name, seed, fewshot)
    label = f"lm-eval:{theirs.task_name}"
    documents = _by_document(theirs, label)
    with quiet(isolated_templates(theirs)):
        try:
            made = _MAKERS[kind](theirs, documents, arguments, name)
        except UserError:
            raise
        except Exception as error:
            raise _unsupported_error(
                name,
                f"cannot be asked ({error_reason(error)})",
                "data with the fields that it names",
            ) from error
    if not made.items:
        raise _unsupported_error(name, "has no item that can be asked", "one at least")
    if examples or theirs.get_config("description") or theirs.get_config("gen_prefix"):
        made = replace(made, items=_with_turns(theirs, made.items, label, name, seed, fewshot))
    _refuse_broken_texts(made.items, name)
    left_out = len(documents) - len(made.items)
    dropped = f"; {count_noun(left_out, 'document')} left out, with equal options or none right"
    capability: Any = arguments.get("capability", "knowledge")
    return Task(
        name=label + made.suffix,
        capability=capability,
        description=f"{kind} of lm-evaluation-harness, {count_noun(examples, 'example')} in each "
        f"prompt{dropped if left_out else ''}",
        items=cluster_repeats(made.items),
        fewshot=(),
        generate=made.generate or one_line_answers(made.items),
        chance=_chance(kind, made, examples),
        template=made.template,
        source=name,
        judge=made.judge,
    )


def _chance(kind: str, made: _TaskItems, examples: int) -> dict[str, float]:
    """Accuracy by guessing, under the protocols that the items can be asked under."""
    chance = guessing_chance(made.items)
    if any(item.ending is not None for item in made.items):
        return {"continuation": chance["continuation"]}
    if kind == "loglikelihood":
        return {"continuation": chance["generate"], "generate": chance["generate"]}
    if examples or not made.lettered:
        # Lettered options are no match for examples that are answered by texts.
        chance.pop("letter", None)
    return chance


def _refuse_broken_texts(items: Sequence[Item], name: str) -> None:
    """Refuse what is no text, or none that tables and pages can hold."""
    for item in items:
        turns = (content for _, content in item.turns)
        options = (item.answer, *item.choices, *item.aliases, item.ending or "")
        for text in (item.question, *options, *turns):
            if not isinstance(text, str) or not is_whole(text):
                raise _unsupported_error(
                    name, f"has an item with {short_repr(text)}", "texts of whole characters"
                )


def _unsupported_error(name: str, what: str, expected: str) -> UserError:
    return UserError(f"Task {name!r} {what}; expected {expected}.")


def _by_document(theirs: Any, label: str) -> dict[str, list[Any]]:
    """The requests of each document, by item id."""
    documents: dict[str, list[Any]] = {}
    for instance in theirs.instances:
        documents.setdefault(f"{label}/{instance.doc_id:04d}", []).append(instance)
    return documents


def _with_turns(
    theirs: Any, items: list[Item], label: str, name: str, seed: int, fewshot: int | None
) -> list[Item]:
    """The items with the turns that the harness has for a chat by default."""
    recorded: dict[str, tuple[tuple[str, str], ...]] = {}

    def record(messages: Sequence[Mapping[str, str]], **_: Any) -> str:
        key = f"turns {len(recorded)}"
        recorded[key] = tuple((one["role"], one["content"]) for one in messages)
        return key

    in_chat = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": record}
    _build(theirs, name, seed, fewshot, **in_chat)
    documents = _by_document(theirs, label)
    with_turns = []
    for item in items:
        turns = recorded.get(documents[item.id][0].args[0], ())
        if turns and item.ending is not None:
            *before, (role, content) = turns
            turns = (*before, (role, content.removesuffix(item.choices[0])))
        with_turns.append(replace(item, turns=turns))
    return with_turns


def _build(theirs: Any, name: str, seed: int, fewshot: int | None, **in_chat: Any) -> int:
    """Have the harness make its requests, and return how many examples each prompt has."""
    own = theirs.get_config("num_fewshot")
    if own == 0 and fewshot:
        raise _unsupported_error(
            name, "sets its number of few-shot examples to 0", "no other number"
        )
    count = (own or 0) if fewshot is None else fewshot
    theirs.set_config("num_fewshot", count)
    theirs.set_fewshot_seed(_FEWSHOT_SEED + seed)
    with quiet(isolated_templates(theirs)):
        try:
            theirs.build_all_requests(**in_chat)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"Task {name!r} cannot make its prompts ({error_reason(error)}); expected "
                f"data with "
                f"its fields, and as many few-shot examples as the {count} that are asked for."
            ) from error
        finally:
            theirs.set_config("num_fewshot", own)
    return count


Documents = Mapping[str, Sequence[Any]]


def _choice_items(theirs: Any, documents: Documents, _: Mapping[str, str], name: str) -> _TaskItems:
    """Options behind one prompt, or each in a prompt of its own."""
    if theirs.multiple_target:
        raise _unsupported_error(name, "has several answers", "one right option for each document")
    _refuse_other_metrics(theirs, name)
    delimiter = theirs.config.target_delimiter
    if theirs.multiple_input:
        return _in_prompts(theirs, documents, delimiter, name)
    items = []
    for number, instances in documents.items():
        document = instances[0].doc
        # With mutual information, options without a prompt follow.
        options = tuple(theirs.doc_to_choice(document))
        right = theirs.doc_to_target(document)
        answer = right if isinstance(right, str) else dict(enumerate(options)).get(right)
        if answer is not None and answer in options and _are_distinct(options):
            items.append(Item(number, instances[0].args[0], answer, options))
    lettered = any(len(option) > 1 for item in items for option in item.choices)
    return _with_shared_cue(items, delimiter, lettered=lettered)


def _are_distinct(options: Sequence[str]) -> bool:
    """True if there are several options, all different, none of them empty."""
    return len(set(options)) == len(options) > 1 and all(map(str.strip, options))


def _in_prompts(theirs: Any, documents: Documents, delimiter: str, name: str) -> _TaskItems:
    """Options that end a prompt each, with one text behind all of them (WinoGrande)."""
    if theirs.config.gen_prefix:
        raise _unsupported_error(name, "has a gen_prefix behind options in several prompts", "none")
    items = []
    for number, instances in documents.items():
        document = instances[0].doc
        texts, right = theirs.doc_to_choice(document), theirs.doc_to_text(document)
        # What all of them begin with, up to a whole word, is the question.
        alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
        shared = "".join(first for first, *_ in alike)
        stem = shared[: shared.rfind(" ") + 1] or shared.rstrip(ascii_letters + digits)
        options = tuple(text[len(stem) :] for text in texts)
        prompt, scored = instances[0].args
        ending = scored.removeprefix(delimiter)
        if right in range(len(options)) and _are_distinct(options) and ending.strip():
            question = prompt.removesuffix(options[0])
            items.append(Item(number, question, options[right], options, ending=ending))
    return _TaskItems(items, Template(delimiter=delimiter))


def _continuation_items(
    theirs: Any, documents: Documents, _: Mapping[str, str], name: str
) -> _TaskItems:
    """One continuation, which is right if each of its tokens is the most likely one."""
    _refuse_other_metrics(theirs, name)
    if any(len(instances) > 1 for instances in documents.values()):
        raise _unsupported_error(name, "scores several texts for a document", "one for each")
    # The harness has no delimiter here: white space is part of the text, in a chat too.
    items = []
    for number, (one,) in documents.items():
        prompt, answer = one.args
        items += [Item(number, prompt, answer, (answer,))] if answer.strip() else []
    return _with_shared_cue(items, "")


def _generation_items(
    theirs: Any, documents: Documents, arguments: Mapping[str, str], name: str
) -> _TaskItems:
    """A text that the model writes, judged by the task's own filter and metric."""
    settings = dict(next(iter(documents.values()))[0].args[1])
    if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
        raise _unsupported_error(name, "draws texts at random (do_sample)", "greedy ones")
    filters = [one.name for one in theirs._filters]
    metrics = [str(one) for one in theirs.aggregation() if _is_accuracy(str(one))]
    pipeline = _named_or_first("filter", arguments, filters, name)
    metric = _named_or_first("metric", arguments, metrics, name)
    items = []
    for number, (instance,) in documents.items():
        target = theirs.doc_to_target(instance.doc)
        if theirs.config.doc_to_choice is not None:
            target = theirs.doc_to_choice(instance.doc)[target]
        accepted = [str(one) for one in (target if isinstance(target, list) else [target])]
        known = [one for one in accepted if one.strip()] or ["-"]
        items.append(
            Item(number, instance.args[0], known[0], aliases=tuple(dict.fromkeys(known[1:])))
        )
    until = settings.get("until") or ()
    stop = tuple(one for one in ([until] if isinstance(until, str) else until) if one)
    most = settings.get("max_gen_toks") or settings.get("max_new_tokens") or 256
    sources = {number: instance.doc for number, (instance,) in documents.items()}
    judge = HarnessJudge(theirs, sources, pipeline, metric)
    judge(items[0], "")
    return _TaskItems(
        items,
        Template(),
        generate=GenerateSpec(stop, int(most), "lm-eval"),
        judge=judge,
        suffix="".join(
            f":{key}={arguments[key]}" for key in ("filter", "metric") if key in arguments
        ),
    )


_MAKERS = {
    "multiple_choice": _choice_items,
    "loglikelihood": _continuation_items,
    "generate_until": _generation_items,
}


def _is_accuracy(metric: str) -> bool:
    """True if a metric says right or wrong of each document, by its name."""
    return any(word in metric for word in ("acc", "exact", "match"))


def _refuse_other_metrics(theirs: Any, name: str) -> None:
    metrics = [str(one) for one in theirs.aggregation()]
    if callable(theirs.config.process_results) or not any(map(_is_accuracy, metrics)):
        raise _unsupported_error(
            name, f"is scored by {', '.join(metrics)} of its own", "acc or acc_norm"
        )


def _named_or_first(
    field: str, arguments: Mapping[str, str], known: Sequence[str], name: str
) -> str:
    """The filter or the metric that a name asks for; the first if it does not."""
    if not known:
        raise _unsupported_error(
            name, f"has no {field} that says right or wrong", "exact_match or acc"
        )
    if field in arguments and arguments[field] not in known:
        raise unknown_name(f"{field} of {name!r}", arguments[field], known)
    return arguments.get(field, known[0])


def _with_shared_cue(items: list[Item], delimiter: str, *, lettered: bool = False) -> _TaskItems:
    """The items without the last line that all prompts share, which is the template's then."""
    first = items[0].question if items else ""
    cue = first[first.rfind("\n") :] if "\n" in first else ""
    bare = [item.question.removesuffix(cue) for item in items]
    if len(set(bare)) < 2 or any(
        not text.strip() or text + cue != item.question
        for text, item in zip(bare, items, strict=True)
    ):
        return _TaskItems(items, Template(delimiter=delimiter), lettered)
    cut = [replace(item, question=text) for item, text in zip(items, bare, strict=True)]
    return _TaskItems(cut, Template(delimiter=delimiter, answer_cue=cue), lettered)
