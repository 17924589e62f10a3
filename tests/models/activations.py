"""All activations of a model with hook points, for tests of its sites."""

from __future__ import annotations

from typing import Any

import torch
from transformer_lens import HookedRootModule


def activations(
    model: HookedRootModule, *inputs: torch.Tensor, name: str | None = None, edit: Any = None
) -> dict[str, torch.Tensor]:
    """What is at every hook point, in order of computation; one may be edited."""
    found: dict[str, torch.Tensor] = {}

    def keep(value: torch.Tensor, hook: Any) -> None:
        found[hook.name] = value.clone()

    hooks: list[Any] = [] if name is None else [(name, edit)]
    hooks += [(point, keep) for point in model.hook_dict]
    with torch.inference_mode():
        model.run_with_hooks(*inputs, fwd_hooks=hooks)
    return found
