"""The harness without its progress bars, and with templates that run no code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's progress bars and warnings, and with templates that run no code."""
    import lm_eval.utils as utils
    from jinja2.sandbox import SandboxedEnvironment

    usual = utils.env
    safe = SandboxedEnvironment(undefined=usual.undefined, keep_trailing_newline=True)
    safe.filters = usual.filters
    utils.env = safe
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        utils.env = usual
