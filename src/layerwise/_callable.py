"""Modules that can be called, for those that bear the name of their one function.

``lw.report(...)`` must work also after ``import layerwise.report``, which puts the module in
the function's place.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rsplit(".", 1)[-1])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Let calling the module ``name`` call its function of the same name."""
    sys.modules[name].__class__ = _CallableModule
