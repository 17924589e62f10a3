"""Fields of a benchmark's row by their types, and what its answers and texts are taken from.

Every reader here raises ValueError, in words that follow a file and a row.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from layerwise.errors import shown
from layerwise.tasks.extractors import EXTRACTORS
from layerwise.tasks.right_option import WrittenNumber, plain_text

Row = dict[str, Any]
_DIGITS = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d{1,4})?", re.ASCII)
_OPTION = re.compile(r"(?is)\b([a-e]) ?\) ?(.*?) ?(?=, ?[a-e] ?\)|$)")
_LONGEST_OPTIONS = 10_000
_LONGEST_TEMPLATE = 1000
