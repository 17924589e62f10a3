"""Strategies: any JSON value, and a known JSON document with some of it changed."""

from __future__ import annotations

import copy
import hashlib
import json
from itertools import chain
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.hostile.strings import STRINGS

HUGE = (10**9, 2**31, 2**63, 2**64, -1, 0, -(2**63), 10**30, 1e308, float("inf"), float("nan"), 0.5)
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(list(STRINGS.values())))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(HUGE), TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def deep(draw: Any) -> str:
    """The text of lists or objects within each other, deeper than a parser may like."""
    depth = draw(st.sampled_from([50, 900, 5_000, 100_000]))
    before, after = draw(st.sampled_from([("[", "]"), ('{"a":', "}")]))
    return before * depth + "1" + after * draw(st.sampled_from([depth, 0]))


@st.composite
def changed_documents(draw: Any, document: Any) -> Any:
    """A document of which one to three entries are gone, are something else, or are new."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(document_entries(made))
        if places:
            holder, key = draw(st.sampled_from(places))
            _change(draw, holder, key)
    return made


def _change(draw: Any, holder: Any, key: Any) -> None:
    match draw(st.sampled_from(["replace", "replace", "near", "delete", "add"])):
        case "replace":
            holder[key] = draw(VALUES)
        case "near":
            holder[key] = _similar_value(draw, holder[key])
        case "delete":
            del holder[key]
        case _ if isinstance(holder, dict):
            holder[draw(TEXTS)] = draw(VALUES)


def _similar_value(draw: Any, value: Any) -> Any:
    """Something of the same type, or the same in another type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        others = st.one_of(
            st.sampled_from([value + 1, value - 1, 2 * value, -value, str(value), float(value)]),
            st.integers(),
        )
        return draw(others)
    if isinstance(value, str):
        return draw(st.sampled_from([value + "x", value[:-1], value.upper(), [value], ""]))
    return draw(st.sampled_from([[value], str(value), {}, []]))


def document_entries(value: Any) -> Any:
    """Every entry of the lists and objects in a document, as holder and key."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(entries):
        yield value, key
        if isinstance(inner, dict | list):
            yield from document_entries(inner)


def _repeating_patterns(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Patterns that repeat, choose between or join others."""
    forms = ["({})+", "({})*", "({}|{})+", "({}|{}){{21}}", "{}{}", "(?={})", "{}?"]
    return st.builds(str.format, st.sampled_from(forms), inner, inner)


_ATOMS = st.sampled_from(["a", "aa", r"\w", ".", r"[a-z_]", r"\s?"])
PATTERNS = st.builds(
    lambda inner, end: inner + end,
    st.recursive(_ATOMS, _repeating_patterns, max_leaves=5),
    st.sampled_from(["", "!", "$", "b"]),
)
"""Regular expressions, many of which backtrack for ever; some are none."""


def replace_step(pattern: dict[str, str], content: str) -> dict[str, Any]:
    """A step of a tokenizer that replaces a text or a pattern."""
    return {"type": "Replace", "pattern": pattern, "content": content}


REPLACEMENTS = st.lists(
    st.builds(
        lambda plain, content, times: [replace_step({"String": plain}, content)] * times,
        st.sampled_from(["a", "e", " ", "aa", ""]),
        st.sampled_from(["", "a", "aa", "aea", " " * 1000, "a" * 10**5]),
        st.integers(1, 20),
    ),
    min_size=1, max_size=3,
).map(lambda steps: list(chain(*steps)))  # fmt: skip
"""Steps that let a text grow, or not."""


def _nested_templates(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Templates that repeat others."""
    often = st.sampled_from([0, 1, 3, 1000, 99_999, 10**6])
    return st.builds(
        lambda n, one, form: form.replace("N", str(n)).replace("BODY", one),
        often,
        inner,
        st.sampled_from([
            "{% for a in range(N) %}BODY{% endfor %}",
            "{% set b = 'x' * N %}BODY{{ b * N }}",
            "{% macro again() %}BODY{{ again() }}{% endmacro %}{{ again() }}",
            "{% set ns = namespace(t='x') %}{% for a in range(30) %}{% set ns.t = ns.t ~ ns.t %}"
            "{% endfor %}BODY{{ ns.t }}",
            "{{ 'x'.ljust(N * N) }}BODY",
        ]),
    )  # fmt: skip


TEMPLATES = st.recursive(
    st.sampled_from(["", "{{ messages[0].content }}", "{{ bos_token }}", "{{ 1 // 0 }}", "{{"]),
    _nested_templates, max_leaves=4,
)  # fmt: skip
"""Chat templates, many of which loop or grow."""


RENDERED = TEMPLATES.map(lambda one: one.replace("messages[0].content", "question"))
FILTERS = PATTERNS.map(
    lambda pattern: [
        {
            "name": "x",
            "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}],
        }
    ]
)
IGNORED = PATTERNS.map(lambda one: [{"metric": "exact_match", "regexes_to_ignore": [one]}])

TASK = "task: mine\ndataset_path: json\n"
CALLS = {
    "plainly": TASK + "doc_to_text: !function code.run\n",
    "by an escape": TASK + "doc_to_text: !%66unction code.run\n",
    "verbatim": TASK + "doc_to_text: !<!function> code.run\n",
    "verbatim by an escape": TASK + "doc_to_text: !<%21function> code.run\n",
    "by a handle": "%TAG !x! !func\n---\n" + TASK + "doc_to_text: !x!tion code.run\n",
    "by another primary handle": "%TAG ! !func\n---\n" + TASK + "doc_to_text: !tion code.run\n",
    "behind a quoted number sign": '{task: "#", dataset_path: json, doc_to_text: !function '
    "code.run}",
    "behind a next line in a comment": TASK + "# c\u0085doc_to_text: !function code.run\n",
    "behind a separator in a comment": TASK + "# c\u2028doc_to_text: !function code.run\n",
    "behind a return in a comment": TASK + "# c\rdoc_to_text: !function code.run\n",
    "as a block": TASK + "doc_to_text: !function >-\n  code.run\n",
    "by an alias": TASK + "metadata: &f !function code.run\ndoc_to_text: *f\n",
    "by a merge": TASK + "metadata: &f {doc_to_text: !function code.run}\n<<: *f\n",
    "in a list": TASK + "metric_list: [{metric: acc, aggregation: !function code.run}]\n",
    "where nothing reads it": TASK + "metadata: {a: [{b: !function code.run}]}\n",
    "as a key": TASK + "metadata: {? !function code.run : 1}\n",
}
"""Task files of lm-evaluation-harness that name a function of the module beside them."""


@st.composite
def expanding_aliases(draw: Any) -> str:
    """A field whose aliases stand for each other, once or many times."""
    levels, times = draw(st.integers(1, 60)), draw(st.sampled_from([1, 2, 9]))
    form = draw(st.sampled_from(["[{}]", "{{<<: [{}]}}", "{{a: [{}]}}"]))
    lines = ["a0: &a0 {x: y}"]
    for n in range(levels):
        again = draw(st.sampled_from([f"*a{n}", f"*a{n}", f"*a{n + 1}"]))
        lines.append(f"a{n + 1}: &a{n + 1} " + form.format(", ".join([again] * times)))
    return "metadata:\n  " + "\n  ".join(lines) + "\n"


def task_files(fields: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Task files of lm-evaluation-harness, of which none that names a function may be loaded."""
    written = {name: value for name, value in fields.items() if name != "doc_to_choice"} | {
        "output_type": "generate_until", "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    places = st.sampled_from(["doc_to_text", "doc_to_target", "doc_to_choice", "description"])
    whole = st.one_of(
        changed_documents(fields),
        changed_documents(written),
        st.builds(lambda place, one: fields | {place: one}, places, RENDERED),
        FILTERS.map(lambda one: written | {"filter_list": one}),
        IGNORED.map(lambda one: written | {"metric_list": one}),
    ).map(yaml.safe_dump)
    ends = st.sampled_from(["\n", "\r", "\u0085", "\u2028", "\u2029", " "])
    calls = st.builds(
        lambda call, end: call if "%TAG" in call else f"# {end}".rstrip(" ") + f"\n{call}",
        st.sampled_from(list(CALLS.values())), ends,
    )  # fmt: skip
    more = st.builds(lambda text, aliases: text + aliases, whole, expanding_aliases())
    return st.one_of(
        st.builds(str.encode, st.one_of(whole, whole, more, calls), st.sampled_from(_ENCODINGS)),
        deep().map(lambda text: MutatedBytes(text.encode())),
        st.binary(max_size=60),
    ).map(lambda content: content if len(content) < 2000 else MutatedBytes(content))


_ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16"]


def document_files(document: Any) -> st.SearchStrategy[bytes]:
    """Files of a JSON document that was changed; some are no JSON, or too deep."""
    return st.one_of(
        changed_documents(document).map(_encode_json),
        changed_documents(document).map(_encode_json),
        VALUES.map(_encode_json),
        deep().map(lambda text: MutatedBytes(text.encode())),
        st.binary(max_size=60),
    )


def _encode_json(value: Any) -> bytes:
    content = json.dumps(value).encode()
    return content if len(content) < 2000 else MutatedBytes(content)


class MutatedBytes(bytes):
    """Bytes that are told apart in a test's output without being printed."""

    def __repr__(self) -> str:
        return f"Mutated({len(self)} bytes, SHA-256 {hashlib.sha256(self).hexdigest()[:12]})"


@st.composite
def mutated_bytes(draw: Any, content: bytes, within: int) -> MutatedBytes:
    """Bytes of which some among the first ``within`` are others, are gone, or are repeated."""
    made = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(within, len(made)) - 1)))
        match draw(st.sampled_from(["byte", "eight", "delete", "insert", "repeat"])):
            case "byte":
                made[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "eight":
                number = draw(st.sampled_from([0, 1, 2**31, 2**32, 2**40, 2**63, 2**64 - 1]))
                made[at : at + 8] = number.to_bytes(8, "little")
            case "delete":
                del made[at : at + draw(st.integers(1, 64))]
            case "insert":
                made[at:at] = draw(st.binary(max_size=16))
            case _:
                made[at:at] = made[at : at + draw(st.integers(1, 256))]
    return MutatedBytes(made)
