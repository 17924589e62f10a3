"""A wired model's weights, and modules that run them where TransformerLens has no models.

The weights have the names, shapes and order that a ``HookedTransformer`` gives them, so that the
same numbers are drawn and written for both. What they are is told in ``_wiring``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from layerwise.models.decoder.capture import attend
from layerwise.models.decoder.parts import AttentionParts, BlockParts, Parts


class WiredWeights(nn.Module):
    """The weights of a wired model by TransformerLens's names; all 0 until they are written."""

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__()
        self.cfg = cfg  # sizes, under the names of ``HookedTransformerConfig``
        d_model = cfg.d_model
        self.embed = _Named(W_E=(cfg.d_vocab, d_model))
        self.pos_embed = _Named(W_pos=(cfg.n_ctx, d_model))
        self.blocks = nn.ModuleList(_BlockWeights(cfg) for _ in range(cfg.n_layers))
        self.unembed = _Named(W_U=(d_model, cfg.d_vocab), b_U=(cfg.d_vocab,))

    @property
    def W_E(self) -> Float[torch.Tensor, "d_vocab d_model"]:
        """The token embedding."""
        return self.embed.get_parameter("W_E")

    @property
    def W_pos(self) -> Float[torch.Tensor, "n_ctx d_model"]:
        """The embedding of positions."""
        return self.pos_embed.get_parameter("W_pos")

    @property
    def W_U(self) -> Float[torch.Tensor, "d_model d_vocab"]:
        """The unembedding."""
        return self.unembed.get_parameter("W_U")

    @property
    def b_U(self) -> Float[torch.Tensor, " d_vocab"]:
        """Its bias."""
        return self.unembed.get_parameter("b_U")


class _Named(nn.Module):
    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape), requires_grad=False))


class _BlockWeights(nn.Module):
    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__()
        n_keys = cfg.n_key_value_heads or cfg.n_heads
        own = "" if cfg.n_key_value_heads is None else "_"  # TransformerLens's name where shared
        reads, reads_key = ((n, cfg.d_model, cfg.d_head) for n in (cfg.n_heads, n_keys))
        self.attn = _Named(
            W_Q=reads, W_O=(cfg.n_heads, cfg.d_head, cfg.d_model), b_Q=(cfg.n_heads, cfg.d_head),
            b_O=(cfg.d_model,), **dict.fromkeys((f"{own}W_K", f"{own}W_V"), reads_key),
            **dict.fromkeys((f"{own}b_K", f"{own}b_V"), (n_keys, cfg.d_head)),
        )  # fmt: skip
        self.mlp = _Named(
            W_in=(cfg.d_model, cfg.d_mlp), b_in=(cfg.d_mlp,), W_out=(cfg.d_mlp, cfg.d_model),
            b_out=(cfg.d_model,),
        )  # fmt: skip


class WiredDecoder(nn.Module):
    """Runs the weights of a wired model: no norms, relu, unscaled scores."""

    def __init__(self, written: WiredWeights) -> None:
        super().__init__()
        # The width of the MLP, under the name that Hugging Face has for it.
        self.config = SimpleNamespace(intermediate_size=written.cfg.d_mlp)
        self.words = nn.Embedding.from_pretrained(written.W_E.detach().clone())
        self.places = nn.Embedding.from_pretrained(written.W_pos.detach().clone())
        self.blocks = nn.ModuleList(_Block(block) for block in written.blocks)
        self.lm_head = _linear(written.W_U, written.b_U)

    def parts(self) -> Parts:
        """How the weights are used."""
        blocks: Any = self.blocks
        return Parts(
            embedding=self.words,
            embed_scale=1.0,
            blocks=tuple(block.parts() for block in blocks),
            final_norm=nn.Identity(),
            unembed=self.lm_head,
            logit_scale=1.0,
            logit_cap=None,
            n_ctx=self.places.num_embeddings,
            positions=self.places,
        )


class _Block(nn.Module):
    def __init__(self, written: Any) -> None:
        super().__init__()
        self.attn, mlp = _Attention(written.attn), written.mlp
        self.mlp = nn.Sequential(
            _linear(mlp.W_in, mlp.b_in), nn.ReLU(), _linear(mlp.W_out, mlp.b_out)
        )

    def parts(self) -> BlockParts:
        return BlockParts(self.attn.parts(), None, None, self.mlp, None, None)


class _Attention(nn.Module):
    def __init__(self, written: Any) -> None:
        super().__init__()
        own = "_" if hasattr(written, "_W_K") else ""
        self.n_heads, _, self.d_head = written.W_Q.shape
        self.q = _heads(written.W_Q, written.b_Q)
        self.k, self.v = (
            _heads(getattr(written, f"{own}W_{letter}"), getattr(written, f"{own}b_{letter}"))
            for letter in "KV"
        )
        self.out = _linear(written.W_O.flatten(0, 1), written.b_O)

    def forward(
        self,
        hidden_states: Float[torch.Tensor, "batch pos d_model"],
        attention_mask: Float[torch.Tensor, ...] | None = None,
        **given: Any,
    ) -> Any:
        """What attention functions of transformers are given; see ``decoder.capture``."""
        q, k, v = (
            made(hidden_states).unflatten(-1, (-1, self.d_head)).transpose(1, 2)
            for made in (self.q, self.k, self.v)
        )
        return attend(self, q, k, v, attention_mask, scaling=1.0)

    def parts(self) -> AttentionParts:
        n_keys = self.k.out_features // self.d_head
        d_head = self.d_head
        return AttentionParts(self, self.out, None, self.n_heads, n_keys, d_head, d_head, scale=1.0)


def _heads(
    weight: Float[torch.Tensor, "head d_model d_head"], bias: Float[torch.Tensor, "head d_head"]
) -> nn.Linear:
    """What makes the queries, keys or values of all heads, side by side."""
    return _linear(weight.transpose(0, 1).flatten(1), bias.flatten())


def _linear(
    weight: Float[torch.Tensor, "d_in d_out"], bias: Float[torch.Tensor, " d_out"]
) -> nn.Linear:
    d_in, d_out = weight.shape
    # Without memory, torch draws no numbers from its global generator.
    with torch.device("meta"):
        made = nn.Linear(d_in, d_out)
    made.weight, made.bias = (
        nn.Parameter(parameter.detach().clone().contiguous(), requires_grad=False)
        for parameter in (weight.T, bias)
    )
    return made
