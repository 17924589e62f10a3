"""Cost of a run, before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .plan import PlanRow as PlanRow
    from .plan import RunPlan as RunPlan
    from .plan import plan_run as plan_run

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"plan": ["PlanRow", "RunPlan", "plan_run"]}
)
