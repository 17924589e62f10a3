"""Texts that do harm where they are not escaped, and what shows that they did.

Models, tasks, files and users can put any of them wherever there is a name or an answer.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from xml.etree import ElementTree

STRINGS: dict[str, str] = {
    "script": "<script>alert(1)</script>",
    "tag": "<b onclick=alert(1)>x",
    "attribute": '" onmouseover="alert(1)" x=\'y\' ',
    "event": "<img src=x onerror=alert(1)><svg/onload=alert(1)>",
    "closing": "</title></style></textarea></details><iframe src=javascript:alert(1)>",
    "comment": "--> ]]> <!-- <![CDATA[ &amp;lt; &#x3c;b&#x3e;",
    "template": "{{ 7*7 }} {% for x in y %} {# x #} ${7*7} <%= 7 %>",
    "formats": "%s %(x)d %n {0} {x!r} {} \\1 \\g<0> $(id) `id`",
    "escape": "\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[8m",
    "c1": "\x9b31m \x85 \x8d \x9d0;title\x9c",
    "bidi": "\u202egnp.exe\u202c \u2066a\u2069 \u200fb",
    "nul": "before\x00after",
    "lines": "one\r\ntwo\nthree\u2028four\u2029five\x0bsix\x0cseven",
    "backspaces": "abc\x08\x08\x08xyz\x7f",
    "long": "x" * 3000,
    "wide": "名" * 120,
    "marks": "e" + "\u0301" * 120,
    "mathematics": r"$\frac{1}{0}$ $x_{ \begin{x} $$ \$ ^ _",
    "formula": "=cmd|' /C calc'!A0",
    "path": "../../../../etc/passwd",
    "other path": "C:\\con\\..\\nul: a*?b|c",
    "option": "--out=/tmp/x",
    "markup": "[red]x[/red] [/nothing] [link=file:///x]y[/link] [b",
    "markdown": "![x](http://x.example/y) [x](javascript:alert(1)) `|` ** <b>",
    "json": '", "hash": "0", "x": "',
    "unassigned": "\ufffe\uffff \U000e0001 \U0010ffff",
    "emoji": "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "spaces": " \u00a0\u3000\u200b\ufeff",
    "surrogate": "a\ud800b",
}
TEXTS = {name: text for name, text in STRINGS.items() if name != "surrogate"}
# What a file may be called: no slash, no NUL, no more than 255 bytes.
FILE_NAMES = {
    name: text
    for name, text in STRINGS.items()
    if not set("/\0") & set(text) and name != "surrogate" and len(text.encode()) < 200
}

_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        "a abbr aside b body br caption clippath code col colgroup dd defs details div dl dt em "
        "figcaption figure footer g h1 h2 h3 h4 head header hr html i image img input label li "
        "main meta nav ol p path pattern pre rect section small span strong style sub summary "
        "sup svg table tbody td th thead title tr ul use",
    )
)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class _Elements(HTMLParser):
    """Collects elements with their attributes, and all text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def harm_in_page(page: str) -> Iterator[str]:
    """Parts of a page that would run, load or look like something that nobody wrote there."""
    parser = _Elements()
    parser.feed(page)
    parser.close()
    own = [_hash_source(text) for text in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)]
    yield from (f"script {one}" for one in own if f"script-src '{one}'" not in page)
    for tag, attributes in parser.elements:
        is_data = tag == "script" and attributes.get("type") == "application/json"
        is_own = tag == "script" and not attributes and own
        if tag not in _HARMLESS and not is_data and not is_own:
            yield f"element {tag}"
        for name, value in attributes.items():
            if name.startswith("on") or name in ("srcdoc", "formaction", "action"):
                yield f"attribute {name} of {tag}"
            if name in ("href", "src", "srcset") and not _leads_nowhere(value or ""):
                yield f"address {value!r:.60}"


def _hash_source(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def text_of_page(page: str) -> str:
    """All text of a page, each run of white space as one space."""
    parser = _Elements()
    parser.feed(page)
    parser.close()
    return squeeze_whitespace(" ".join(parser.text))


def squeeze_whitespace(text: str) -> str:
    """A text without control characters, each run of white space as one space."""
    return " ".join(_CONTROL.sub(" ", text).split())


def _leads_nowhere(address: str) -> bool:
    return address.startswith(("#", "data:image/png;base64,", "data:image/svg+xml;base64,"))


def harm_in_svg(content: bytes) -> Iterator[str]:
    """Parts of an SVG file that would run or be loaded; a ParseError if it is not well-formed."""
    for element in ElementTree.fromstring(content).iter():
        tag = element.tag.rpartition("}")[2]
        if tag in ("script", "foreignObject", "iframe", "a"):
            yield f"element {tag}"
        for name, value in element.attrib.items():
            if name.startswith("on"):
                yield f"attribute {name}"
            if name.endswith("href") and not value.startswith(("#", "data:image/png;base64,")):
                yield f"address {value!r:.60}"
