"""Keeps the chatter of the libraries underneath away from the user while a model is loaded.

Errors are not silenced, and nothing stays changed afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

# Filters, levels and handlers belong to the whole process: put back in another order than that in
# which they were changed, they would stay changed.
_ALONE = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers, no notes of transformers and TransformerLens."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    # Threads that load models meanwhile wait.
    with _ALONE, contextlib.ExitStack() as undone:
        if are_progress_bars_disabled():
            undone.callback(_on_bars, disable_progress_bars)
        if transformers_logging.is_progress_bar_enabled():
            undone.callback(_on_bars, transformers_logging.enable_progress_bar)
        _on_bars(transformers_logging.disable_progress_bar)
        undone.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        transformers_logging.set_verbosity_error()
        # TransformerLens logs on the root logger, which would also get a handler if it had none.
        root, handler = logging.getLogger(), logging.NullHandler()
        root.addFilter(_is_not_transformer_lens)
        undone.callback(root.removeFilter, _is_not_transformer_lens)
        root.addHandler(handler)
        undone.callback(root.removeHandler, handler)
        yield


def _on_bars(change: Callable[[], object]) -> None:
    # The user may have fixed the bars by HF_HUB_DISABLE_PROGRESS_BARS, which then wins.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cannot .* progress bars")
        change()


def _is_not_transformer_lens(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "transformer_lens" not in record.pathname


@contextlib.contextmanager
def silence_deprecation(name: str) -> Iterator[None]:
    """Silence exactly the note that a class of TransformerLens goes away in 4.0."""
    # Where the class is gone, decoders run over their own modules, so the user need do nothing
    # about it. Threads that do the same meanwhile wait.
    with _ALONE, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=f"{name} is deprecated", category=DeprecationWarning
        )
        yield


@contextlib.contextmanager
def no_note_of_kernels() -> Iterator[None]:
    """Silence exactly the note that bitsandbytes misses a package with kernels in bfloat16."""
    # TransformerLens and transformers import it wherever it is installed; such kernels are not
    # used.
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_is_not_about_kernels)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_about_kernels)


@contextlib.contextmanager
def no_notes_of_gptqmodel() -> Iterator[None]:
    """Silence what ``gptqmodel`` tells of each step on standard output, where answers are."""
    # Its logger is made by a package of its own, which sets the level when it is asked for it
    # first. optimum, which calls it, asks transformers for something by its old name.
    if find_spec("logbar") is None:
        yield
        return
    log: Any = import_module("logbar").LogBar.shared()
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        log.setLevel(before)


def _is_not_about_kernels(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in record.getMessage()
