"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), by ``peft``: put in, and merged away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from layerwise.errors import UserError


def need_peft() -> None:
    """Make sure that adapters can be made."""
    try:
        import peft as peft
    except ImportError as error:
        raise UserError(
            "Low-rank adapters need the package peft, which is not installed: expected it beside "
            "layerwise; pip install 'layerwise[distill]', or leave the rank out to train the "
            "weights themselves."
        ) from error


def put_adapters(
    model: nn.Module, blocks: Iterable[str], rank: int, seed: int
) -> dict[str, nn.Parameter]:
    """Give all linear maps of some blocks adapters, which change nothing yet.

    The update is ``2 B A`` with ``A`` drawn and ``B`` zero, in all attention and MLP matrices.
    """
    need_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    within = tuple(f"{block}." for block in blocks)
    linear: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if name.startswith(within) and isinstance(module, (nn.Linear, Conv1D))
    }
    if not linear:
        raise UserError(
            "Low-rank adapters have nothing to adapt: the chosen layers have no linear maps of "
            "their own; leave the rank out to train the weights themselves."
        )
    transposed = {isinstance(module, Conv1D) for module in linear.values()}
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, bias="none",
        target_modules=sorted(linear), fan_in_fan_out=transposed == {True},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    return {name: value for name, value in model.named_parameters() if ".lora_" in name}


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights that they adapt, and take them out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted: list[tuple[str, Any]] = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    ]
    for name, module in adapted:
        module.merge()
        within, _, last = name.rpartition(".")
        setattr(model.get_submodule(within), last, module.get_base_layer())
