"""Benchmarks in the files that their authors publish: ``benchmark:gsm8k:data=FOLDER``."""

from .source import load as load
from .source import matches as matches
from .table import BENCHMARKS as BENCHMARKS
