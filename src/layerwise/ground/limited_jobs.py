"""Jobs of ``limited``, as a script of a process that loads nothing else of this package.

A job imports what it needs, then takes its setup, then answers requests. All of them are JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

Answer = Callable[[Any], Any]
Start = Callable[[Any], Answer]

# How peft joins a pattern of an adapter with the names of modules.
_FORMS = (
    r"{}", r".*\.{}$", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
)  # fmt: skip


def match_patterns() -> Start:
    """Match patterns with names, each as peft does."""
    import re

    def answer(request: dict[str, list[str]]) -> None:
        for pattern in request["patterns"]:
            for form in _FORMS:
                try:
                    compiled = re.compile(form.replace("{}", pattern))
                except re.error:  # peft will refuse it, too
                    continue
                for name in request["names"]:
                    compiled.match(name)
                    compiled.fullmatch(name)

    return lambda setup: answer


def search_pattern() -> Start:
    """Search a text for a pattern: its first group that took part, or all of the match, or None."""
    import re

    def answer(request: dict[str, str]) -> str | None:
        match = re.compile(request["pattern"]).search(request["text"])
        if match is None:
            return None
        return next((group for group in match.groups() if group is not None), match[0])

    return lambda setup: answer


def read_toml() -> Start:
    """Read a TOML document, as far as JSON has its values."""
    import tomllib

    return lambda setup: tomllib.loads


def count_tokens() -> Start:
    """Count the tokens of texts, or say why one cannot be encoded; the largest id of any token."""
    from tokenizers import Tokenizer

    def start(setup: dict[str, Any]) -> Answer:
        if "json" in setup:
            tokenizer = Tokenizer.from_str(setup["json"])
        else:
            tokenizer = Tokenizer.from_file(setup["file"])
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # Words that are added later are normalized, too.
        for path in setup.get("beside", []):
            content = None
            with contextlib.suppress(ValueError, RecursionError), open(path, "rb") as file:
                content = json.load(file)
            for text in json_texts(content):
                _n_tokens(tokenizer, text)
                with contextlib.suppress(Exception):
                    tokenizer.normalizer.normalize_str(text)
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        return lambda texts: {
            "counts": [_n_tokens(tokenizer, text) for text in texts],
            "largest_id": largest,
        }

    return start


def _n_tokens(tokenizer: Any, text: str) -> int | str:
    try:
        return len(tokenizer.encode_batch_fast([text])[0])
    except MemoryError:
        raise
    except BaseException as error:  # a panic of the library's is no Exception
        return f"{type(error).__name__}: {error}"


def json_texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, names of fields among them."""
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list):
            values += value


def render_template() -> Start:
    """Render a chat template, as ``apply_chat_template`` of transformers does."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def start(setup: dict[str, Any]) -> Answer:
        def answer(turns: list[dict[str, str]]) -> dict[str, Any]:
            begun = turns[-1].get("role") == "assistant"
            rendered, _ = render_jinja_template(
                conversations=[turns],
                chat_template=setup["template"],
                add_generation_prompt=not begun,
                continue_final_message=begun,
                **setup["special_tokens"],
            )
            length = sum(len(turn.get("content", "")) for turn in turns)
            short = len(rendered[0]) <= setup["most"] + length
            return {"n_characters": len(rendered[0]), "text": rendered[0] if short else ""}

        return answer

    return start


def render_documents() -> Start:
    """Render a template of lm-evaluation-harness with each of several documents, as it does."""
    import re

    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    def regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
        return re.sub(pattern, repl, string, count=count)

    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = regex_replace

    def render(template: Any, document: str, most: int) -> dict[str, Any]:
        try:
            text = template.render(**json.loads(document))
        except MemoryError:
            raise
        except Exception as error:  # this document's; others may do
            return {"error": f"{type(error).__name__}: {str(error)[:1000]}"}
        is_short = len(text) <= most + len(document)
        return {"text": text} if is_short else {"n_characters": len(text)}

    def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
        template = environment.from_string(request["template"])
        answers: list[dict[str, Any]] = []
        n_characters = 0
        for document in request["documents"]:
            answers.append(render(template, document, request["most"]))
            n_characters += len(answers[-1].get("text", ""))
            if n_characters > request["most_together"]:
                return [{"n_characters": n_characters}] * len(request["documents"])
        return answers

    return lambda setup: answer


def filter_answers() -> Start:
    """Take answers from texts by filters of lm-evaluation-harness, or compare them exactly."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters import get_filter

    def answer(request: dict[str, Any]) -> Any:
        if "compared" in request:
            scores = exact_match_hf_evaluate(**request["compared"])
            return {name: float(score) for name, score in scores.items()}
        answers = request["answers"]
        for function, arguments in request["filters"]:
            answers = get_filter(function)(**arguments).apply(answers, request["documents"])
        return list(answers)

    return lambda setup: answer


_JOBS = {
    job.__name__: job
    for job in (
        match_patterns,
        search_pattern,
        read_toml,
        count_tokens,
        render_template,
        render_documents,
        filter_answers,
    )
}


def _limit_memory(n_bytes: int) -> None:
    """Bound what this process may allocate, as far as the system lets it."""
    for kind, most in ((resource.RLIMIT_DATA, n_bytes), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        try:
            resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))
        except (ValueError, OSError):
            continue


def main(job: str, memory: str, idle_seconds: str, *paths: str) -> None:
    """Answer one line after another, and end when there are no more for a while."""
    # A line's time is that of the processor. The signal of its timer ends the process, whatever
    # runs; so does the alarm that no line stops.
    sys.path += paths
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else writes among the answers
    answer: Answer | None = None
    while True:
        signal.alarm(int(idle_seconds))
        line = sys.stdin.buffer.readline()
        signal.alarm(0)
        if not line:
            os._exit(0)
        try:
            message = json.loads(line)
            if answer is None:
                start = _JOBS[job]()
                _limit_memory(int(memory))
                signal.setitimer(signal.ITIMER_PROF, message["seconds"])
                answer, result = start(message["request"]), None
            else:
                signal.setitimer(signal.ITIMER_PROF, message["seconds"])
                result = answer(message["request"])
            reply = json.dumps({"answer": result})
        except MemoryError:
            os._exit(1)
        except BaseException as error:  # a panic of tokenizers is no Exception
            reply = json.dumps({"error": [type(error).__name__, str(error)[:1000]]})
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(reply.encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
