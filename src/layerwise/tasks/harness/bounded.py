"""Templates of a task file and filters of answers, evaluated in processes with limits.

A template may loop or grow, a pattern backtrack for hours, and nothing interrupts them here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from layerwise.errors import UserError, count_noun, one_line
from layerwise.ground.limited import JobError, LimitedProcess, OverLimitError
from layerwise.tasks._lines import is_whole

_MOST_CHARACTERS = 200_000  # that a template may add to a document
_MOST_TOGETHER = 2**26  # of all texts that one request makes
_MOST_OF_A_TASK = 2**28
_CHARACTERS_A_REQUEST, _DOCUMENTS_A_REQUEST = 10**6, 2000

_RENDERING = LimitedProcess("render_documents")
_FILTERING = LimitedProcess("filter_answers")


class Templates:
    """The texts that the templates of a task make of its documents; each is made once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._answers: dict[bytes, dict[str, Any]] = {}
        self._n_characters = 0
        self._documents: list[str] = []

    def know(self, documents: Iterable[Any]) -> None:
        """Render a template that is asked for with all of these documents at once."""
        self._documents = list(dict.fromkeys(map(_to_json, documents)))

    def __call__(self, template: str, document: Mapping[str, Any]) -> str:
        """The text of one document; in place of the harness's ``apply_template``."""
        written = _to_json(document)
        answer = self._answers.get(_key(template, written))
        if answer is None:
            self._render(template, dict.fromkeys([written, *self._documents]))
            answer = self._answers[_key(template, written)]
        if "error" in answer:
            raise JobError(answer["error"])
        return answer["text"]

    def _render(self, template: str, documents: Iterable[str]) -> None:
        for some in _in_parts(documents):
            answers = self._ask(template, some)
            for document, answer in zip(some, answers, strict=True):
                self._keep(template, document, answer)

    def _keep(self, template: str, document: str, answer: dict[str, Any]) -> None:
        text = answer.get("text", "")
        self._n_characters += len(text)
        n_characters = answer.get("n_characters", self._n_characters)
        if "n_characters" in answer or n_characters > _MOST_OF_A_TASK:
            raise UserError(
                f"A template of task {self._name!r} makes {n_characters:,} characters; expected "
                "short prompts; correct the template."
            )
        if not is_whole(text):
            raise UserError(
                f"A template of task {self._name!r} makes a null or half a character; expected "
                "whole characters; correct the template."
            )
        self._answers[_key(template, document)] = answer

    def _ask(self, template: str, documents: list[str]) -> list[dict[str, Any]]:
        bounds = {"most": _MOST_CHARACTERS, "most_together": _MOST_TOGETHER}
        request = {"template": template, "documents": documents, **bounds}
        try:
            return _RENDERING.ask(request, sum(map(len, documents)))
        except OverLimitError as limit:
            raise UserError(
                f"A template of task {self._name!r} needs more than {limit} for "
                f"{count_noun(len(documents), 'document')}; expected far less; correct the "
                f"template."
            ) from limit


def _to_json(document: Any) -> str:
    return json.dumps(document, default=str)


def _key(template: str, document: str) -> bytes:
    both = f"{len(template)}:{template}{document}"
    return hashlib.sha256(both.encode("utf-8", "surrogatepass")).digest()


def _in_parts(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents for one request after another."""
    part: list[str] = []
    n_characters = 0
    for document in documents:
        n_characters += len(document)
        if part and (n_characters > _CHARACTERS_A_REQUEST or len(part) == _DOCUMENTS_A_REQUEST):
            yield part
            part, n_characters = [], len(document)
        part.append(document)
    yield part


@contextlib.contextmanager
def quiet(templates: Templates | None = None) -> Iterator[None]:
    """Without the harness's progress bars and warnings, and with templates that run no code.

    They are rendered by ``templates``; without it they are trusted, and rendered in this process.
    """
    import lm_eval.utils as utils
    from jinja2.sandbox import SandboxedEnvironment

    usual, usual_render = utils.env, utils.apply_template
    safe = SandboxedEnvironment(undefined=usual.undefined, keep_trailing_newline=True)
    safe.filters = usual.filters
    utils.env, utils.apply_template = safe, templates or usual_render
    try:
        # The harness prints the type of what it cannot use.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        utils.env, utils.apply_template = usual, usual_render


def error_reason(error: Exception) -> str:
    """Kind and message of an error, also of one in another process."""
    return (
        one_line(error)
        if isinstance(error, JobError)
        else f"{type(error).__name__}: {one_line(error)}"
    )


_TEMPLATES: WeakKeyDictionary[Any, Templates] = WeakKeyDictionary()


def isolated_templates(theirs: Any) -> Templates | None:
    """The templates of one of the harness's tasks that are rendered apart; None if trusted."""
    return _TEMPLATES.get(theirs)


def isolate_rendering(theirs: Any, templates: Templates) -> None:
    """Render a task's templates in a limited process from now on, all its documents together."""
    examples = getattr(getattr(theirs, "sampler", None), "df", ())
    templates.know([*theirs.eval_docs, *examples])
    _TEMPLATES[theirs] = templates


# Those that match a pattern of the task, or one in quadratic time.
_OF_PATTERNS = ("regex", "multi_choice_regex", "regex_pos")


def isolate_filters(theirs: Any, name: str) -> None:
    """Let a task's patterns meet the model's answers in a limited process only."""
    listed: list[Any] = theirs.get_config("filter_list") or []
    for one, pipeline in zip(listed, theirs._filters, strict=False):
        steps = [
            [step["function"], {key: step[key] for key in step if key != "function"}]
            for step in one["filter"]
        ]
        if not _has_patterns(steps):
            continue
        if json.loads(_to_json(steps)) != steps:  # the other process would have others
            raise UserError(
                f"A filter of task {name!r} has keys that are no texts; expected texts; put them "
                "in quotes."
            )
        pipeline.filters = [lambda steps=steps: _IsolatedFilter(steps, name)]
    # A class of a task's own may have its own ways.
    arguments = getattr(theirs, "_metric_fn_kwargs", {}).get("exact_match") or {}
    if arguments.get("regexes_to_ignore") and theirs._metric_fn_list.get("exact_match"):
        theirs._metric_fn_list["exact_match"] = _isolated_comparison(name)


def _has_patterns(steps: list[Any]) -> bool:
    """True if there are patterns, and only filters that the harness itself has by name."""
    from lm_eval.api.registry import filter_registry

    own = [
        isinstance(step, str)
        and step in filter_registry
        and filter_registry.get(step).__module__.startswith("lm_eval.filters.")
        for step, _ in steps
    ]
    return all(own) and any(step in _OF_PATTERNS for step, _ in steps)


class _IsolatedFilter:
    """Steps of a filter as one of the harness's filters."""

    def __init__(self, steps: list[Any], name: str) -> None:
        self._steps, self._name = steps, name

    def apply(self, answers: Iterable[Sequence[Any]], documents: Sequence[Any]) -> list[Any]:
        request = {"filters": self._steps, "answers": [*map(list, answers)]}
        return _ask_filter(request | {"documents": documents}, self._name)


def _isolated_comparison(name: str) -> Callable[..., Any]:
    return lambda **compared: _ask_filter({"compared": compared}, name)


def _ask_filter(request: dict[str, Any], name: str) -> Any:
    written = _to_json(request)
    try:
        return _FILTERING.ask(json.loads(written), len(written))
    except OverLimitError as limit:
        raise UserError(
            f"A filter of task {name!r} needs more than {limit} for an answer; expected far less; "
            "correct its pattern."
        ) from limit
