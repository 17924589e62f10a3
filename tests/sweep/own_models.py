"""Changes of a user to a model of his own: ones that are refused, and ones that hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrize

from layerwise.models.libraries.hooked import MLP, Attention
from tests.hooked import HookedTransformer

from .models import N_LAYERS, new_model

Change = Callable[[Any], Any]


class EvenAttention(Attention):
    def calculate_attention_scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return 0 * super().calculate_attention_scores(q, k)


class HalvedModule(HookedTransformer):
    def forward(self, *args: Any, **named: Any) -> Any:
        return super().forward(*args, **named) / 2


class Talkative(HookedTransformer):
    def describe(self) -> str:
        return "a model with one more function"


class OwnMlp(nn.Module):
    """An MLP of a user's own; ``mixing`` lets it see what stands behind."""

    def __init__(self, mlp: MLP, mixing: float = 0.0) -> None:
        super().__init__()
        self.mlp, self.mixing = mlp, mixing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x + self.mixing * x.mean(1, keepdim=True))


class Restless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x)


class Doubling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def _double(module: nn.Module, inputs: Any, output: Any) -> Any:
    return 2 * output


def _double_named_input(module: nn.Module, inputs: Any, named: Any) -> Any:
    return inputs, {
        key: 2 * value if key == "query_input" else value for key, value in named.items()
    }


def _patch_forward(module: Any) -> None:
    inner = module.forward
    module.forward = lambda *args, **named: 2 * inner(*args, **named)


def _of_class(module: Any, cls: type) -> None:
    module.__class__ = cls


def _put_module(holder: Any, name: Any, module: nn.Module) -> None:
    holder[name] = module


def _with_dropout(model: Any) -> None:
    model.blocks[1].mlp = nn.Sequential(model.blocks[1].mlp, nn.Dropout(0.5))
    model.train()


def _settings(model: Any, **settings: Any) -> None:
    for name, value in settings.items():
        setattr(model.cfg, name, value)


def _hook(at: str, hook: Any = _double, how: str = "forward_hook", **options: Any) -> Change:
    return lambda m: getattr(m.get_submodule(at), f"register_{how}")(hook, **options)


def _assign(at: str, name: str, value: Callable[[Any], Any]) -> Change:
    return lambda m: setattr(m.get_submodule(at), name, value(m))


def _of_other_class(at: str, cls: type) -> Change:
    return lambda m: _of_class(m.get_submodule(at), cls)


KEYWORDS = {"with_kwargs": True}
# What is refused: to which kind of model, how it is done, and a part of the sentence.
REFUSED: dict[str, tuple[str, Change, str]] = {
    "hook on a block": ("llama-gqa", _hook("blocks.1"), "blocks.1 .*hooks of torch"),
    "pre-hook with keywords": (
        "gpt2", _hook("blocks.0.attn", _double_named_input, "forward_pre_hook", **KEYWORDS),
        "hooks of torch",
    ),
    "hook on a norm": ("gpt2", _hook("blocks.3.ln2"), "blocks.3.ln2 .*hooks"),
    "torch hook on a hook point": ("gpt2", _hook("blocks.3.hook_resid_mid"), "hooks of torch"),
    "hook on the unembedding": ("alibi", _hook("unembed"), "unembed .*hooks of torch"),
    "hook on the model": ("gpt2", _hook(""), "The model has hooks of torch"),
    "hook for all modules": (
        "gpt2", lambda m: torch_modules.register_module_forward_hook(_double), "for all modules",
    ),
    "forward of a block": (
        "neox", lambda m: _patch_forward(m.blocks[2]), ("blocks.2 of the model had its "
"forward replaced"),
    ),
    "function of an attention": (
        "gpt2", _assign("blocks.0.attn", "calculate_z_scores", lambda _: lambda v, p: 0 * v),
        "had its calculate_z_scores replaced",
    ),
    "class of an attention": (
        "gpt2", _of_other_class("blocks.1.attn", EvenAttention), "EvenAttention.calculate",
    ),
    "class of the model": ("gpt2", _of_other_class("", HalvedModule), "HalvedModule.forward"),
    "attention of one's own": (
        "gpt2", _assign("blocks.1", "attn", lambda m: nn.Identity()), "no blocks.1.attn.hook_z",
    ),
    "unembedding of one's own": (
        "gpt2", _assign("", "unembed", lambda m: nn.Linear(32, 50)), ("unembed .* Linear of "
"your own"),
    ),
    "one block twice": (
        "llama-gqa", lambda m: _put_module(m.blocks, 2, m.blocks[1]),
        "blocks.2.hook_resid_pre of its own",
    ),
    "another block without setup": (
        "gpt2", lambda m: _put_module(m.blocks, 2, copy.deepcopy(m.blocks[1])), "model.setup()",
    ),
    "shortformer": (
        "gpt2", lambda m: _settings(m, positional_embedding_type="shortformer"), "'shortformer'",
    ),
    "bidirectional": (
        "gpt2", lambda m: _settings(m, attention_dir="bidirectional"), "attends in both directions",
    ),
    "dropout in training": ("gpt2", _with_dropout, "drops activations at random .*model.eval"),
    "chance": (
        "gpt2", _assign("blocks.1.mlp", "act_fn", lambda m: Restless()), "other numbers each",
    ),
    "an MLP that sees other positions": (
        "gpt2", _assign("blocks.1", "mlp", lambda m: OwnMlp(m.blocks[1].mlp, 0.1)),
        r"does not compute what this model computes: .*nats",
    ),
    "weights on meta": ("gpt2", lambda m: m.to("meta"), "device 'meta'"),
}  # fmt: skip
# What the reference runs as the model does, too.
NOT_FOR_REFERENCE = {
    "one block twice", "another block without setup", "bidirectional",
    "attention of one's own", "weights on meta",
}  # fmt: skip

# What is computed as model(tokens) does.
SUPPORTED: dict[str, tuple[str, Change]] = {
    "as it is": ("llama-gqa", lambda m: None),
    "in training mode, without dropout": ("gpt2", lambda m: m.train()),
    "other weights": ("llama-gqa", lambda m: m.blocks[1].mlp.W_out.data.mul_(3.0)),
    "another parameter": (
        "gpt2",
        lambda m: setattr(m.blocks[0].attn, "W_Q", nn.Parameter(m.blocks[1].attn.W_Q * 2)),
    ),
    "an MLP of one's own": ("gpt2", lambda m: setattr(m.blocks[1], "mlp", OwnMlp(m.blocks[1].mlp))),
    "a parametrization of an attention": (
        "gpt2",
        lambda m: parametrize.register_parametrization(m.blocks[1].attn, "W_Q", Doubling()),
    ),
    "a parametrization of an MLP": (
        "llama-gqa",
        lambda m: parametrize.register_parametrization(m.blocks[2].mlp, "W_out", Doubling()),
    ),
    "a copy of a block, set up": (
        "neox",
        lambda m: (_put_module(m.blocks, 2, copy.deepcopy(m.blocks[1])), m.setup()),
    ),
    "a subclass that computes the same": ("gpt2", lambda m: _of_class(m, Talkative)),
    "settings that say something else": ("gpt2", lambda m: _settings(m, parallel_attn_mlp=True)),
    "weights with gradients": ("gpt2", lambda m: m.requires_grad_(True)),
    "half precision": ("llama-gqa", lambda m: m.to(torch.bfloat16)),
    "double precision": ("llama-gqa", lambda m: m.to(torch.float64)),
}


def changed_model(kind: str, change: Change) -> tuple[Any, Any]:
    """A model with a change, and what the change gave back."""
    model = new_model(kind)
    assert len(model.blocks) == N_LAYERS
    return model, change(model)
