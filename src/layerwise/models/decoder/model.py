"""``DecoderModel``: a decoder of Hugging Face with the habits of ``HookedTransformer``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from layerwise.models.libraries.hooked import HookedRootModule, HookPoint
from layerwise.models.libraries.quiet import silence_deprecation
from layerwise.models.libraries.untrusted_tokenizer import try_texts

from .blocks import HookedDecoderBlock, Past, greedy
from .parts import DecoderParts

Tokens = Int[torch.Tensor, "batch pos"]
Logits = Float[torch.Tensor, "batch pos d_vocab"]
Stream = Float[torch.Tensor, "batch pos d_model"]


@dataclass
class DecoderConfig:
    """Sizes of a decoder, under the names that ``HookedTransformerConfig`` has."""

    model_name: str  # the name it goes by
    original_architecture: str  # the Hugging Face class
    n_layers: int
    d_model: int  # width of the residual stream
    n_heads: int  # query heads of a layer
    n_key_value_heads: int  # heads that have keys and values of their own
    d_head: int  # width of a head
    d_mlp: int  # width of the MLP's hidden layer
    d_vocab: int  # tokens that can be read
    d_vocab_out: int  # tokens that can be said
    n_ctx: int  # longest text, in tokens
    parallel_attn_mlp: bool  # whether attention and MLP read the same stream
    # Whether a norm stands between a sublayer and the stream.
    use_normalization_before_and_after: bool
    output_logits_soft_cap: float | None  # logits l become cap tanh(l / cap); None if they stay
    experts_per_token: int | None  # how many experts a token goes to; None if there are none
    gated_mlp: bool  # whether the MLP has three matrices
    normalization_type: str | None  # the class of the final norm; None if there is none
    attn_only: bool = False  # all blocks have an MLP
    attention_dir: str = "causal"
    # ``rotary`` (in some layers perhaps nothing at all), ``standard`` if positions are added to the
    # stream, ``alibi`` if scores grow with them.
    positional_embedding_type: str = "rotary"


class DecoderModel(HookedRootModule):
    """A decoder with hook points at every site.

    Hook names are TransformerLens's: ``blocks.3.hook_resid_post``, ``blocks.0.attn.hook_z``. The
    weights are those of the Hugging Face model, which stays in use: an edit of one is an edit of
    the other.

    Attributes:
        original: the Hugging Face model.
        parts: its modules by what they do.
        cfg: sizes.
        blocks: the layers.
        tokenizer: turns text into tokens; None if there is none.
    """

    def __init__(
        self,
        original: nn.Module,
        parts: DecoderParts,
        *,
        name: str,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        with silence_deprecation("HookedRootModule"):
            super().__init__()
        self.original, self.parts, self.tokenizer = original, parts, tokenizer
        self.cfg = _config(original, parts, name)
        self.hook_embed, self.hook_logits = HookPoint(), HookPoint()
        if parts.positions is not None:
            self.hook_pos_embed = HookPoint()
        self.blocks: Any = nn.ModuleList(HookedDecoderBlock(block) for block in parts.blocks)
        self.setup()
        self.requires_grad_(False).eval()

    def forward(
        self, tokens: Tokens, *, stop_at_layer: int | None = None, past: list[Past] | None = None
    ) -> Float[torch.Tensor, "batch pos _"]:
        """Logits at every position.

        Args:
            tokens: token ids, no padding among them; with ``past``, the new ones only.
            stop_at_layer: return the residual stream that enters this layer instead.
            past: keys and values of earlier tokens by layer, none at all to begin with; is
                extended.
        """
        if past is not None and not past:
            past += [Past() for _ in self.blocks]
        before = past[0].n_tokens if past else 0
        positions = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        resid = self.hook_embed(self.embed(tokens))
        if self.parts.positions is not None:
            added = self.parts.positions(positions).expand(len(tokens), -1, -1)
            resid = resid + self.hook_pos_embed(added)
        for number, block in enumerate(self.blocks):
            if number == stop_at_layer:
                return resid
            resid = block(resid, positions, past[number] if past else None)
        if stop_at_layer is not None:
            return resid
        logits, cap = self.unembed(self.ln_final(resid)), self.cfg.output_logits_soft_cap
        return self.hook_logits(logits if cap is None else cap * torch.tanh(logits / cap))

    def embed(self, tokens: Tokens) -> Stream:
        """Embedded tokens, to which positions are added where the model does so."""
        return self.parts.embed(tokens)

    def embed_at(
        self, tokens: Int[torch.Tensor, " token"], positions: Int[torch.Tensor, " token"]
    ) -> Float[torch.Tensor, "token d_model"]:
        """Input of the first block for tokens at any positions."""
        embedded = self.embed(tokens[None])[0]
        return (
            embedded if self.parts.positions is None else embedded + self.parts.positions(positions)
        )

    @property
    def ln_final(self) -> nn.Module:
        """The final norm."""
        return self.parts.final_norm

    def unembed(self, resid: Stream) -> Logits:
        """Logits from the stream after its final norm, before a soft-cap."""
        logits = F.linear(resid, self.parts.unembed.weight, self.parts.unembed.bias)
        scale = self.parts.logit_scale
        return logits if scale == 1.0 else logits * scale

    @property
    def W_E(self) -> Float[torch.Tensor, "d_vocab d_model"]:
        """The token embedding, as the original has it: before a scale."""
        return self.parts.embedding.weight

    @property
    def W_U(self) -> Float[torch.Tensor, "d_model d_vocab_out"]:
        """The unembedding, with the scale of the logits."""
        weight, scale = self.parts.unembed.weight.T, self.parts.logit_scale
        return weight if scale == 1.0 else weight * scale

    @property
    def b_U(self) -> Float[torch.Tensor, " d_vocab_out"]:
        """The bias of the logits; zeros where there is none."""
        bias = self.parts.unembed.bias
        if bias is None:
            return self.parts.unembed.weight.new_zeros(self.cfg.d_vocab_out)
        return bias * self.parts.logit_scale

    def to_tokens(self, text: str | list[str], *, truncate: bool = True) -> Tokens:
        """Token ids of one text, or of several of one length, as the tokenizer gives them.

        Args:
            text: the text.
            truncate: cut it to ``cfg.n_ctx`` tokens.
        """
        assert self.tokenizer is not None, "the model has no tokenizer"
        texts = [text] if isinstance(text, str) else text
        try_texts(self.tokenizer, *texts)
        rows: Any = self.tokenizer(texts, return_tensors="pt")
        tokens = rows.input_ids.to(self.W_E.device)
        return tokens[:, : self.cfg.n_ctx] if truncate else tokens

    @torch.inference_mode()
    def generate(
        self, tokens: Tokens, max_new_tokens: int, *, use_cache: bool = True
    ) -> Int[torch.Tensor, "batch new"]:
        """Greedy tokens, all ``max_new_tokens`` of them, end tokens included.

        Args:
            tokens: what is gone on with, no padding among them.
            max_new_tokens: how many.
            use_cache: keep keys and values, rather than run the model on everything anew.
        """
        past: list[Past] | None = [] if use_cache else None
        run = partial(self, past=past)
        return greedy(run, tokens, max_new_tokens, use_cache=use_cache)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Frequencies of rotary embeddings stay float32 in a narrower model, as in its original.
        kept = [
            (module, name, buffer)
            for module in self.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and "inv_freq" in name
        ]
        super()._apply(fn, recurse)
        for module, name, buffer in kept:
            module._buffers[name] = buffer.to(fn(buffer).device)
        return self


def _config(original: Any, parts: DecoderParts, name: str) -> DecoderConfig:
    first, config = parts.blocks[0], original.config
    unembedded, width = parts.unembed.weight.shape
    experts = getattr(config, "num_experts_per_tok", None)
    without = isinstance(parts.final_norm, nn.Identity)
    inner = getattr(config, "moe_intermediate_size", None) if experts else None
    for given in ("intermediate_size", "n_inner", "ffn_dim"):
        inner = inner or getattr(config, given, None)
    if isinstance(inner, list):  # one for each layer
        inner = max(inner)
    return DecoderConfig(
        model_name=name,
        original_architecture=type(original).__name__,
        n_layers=len(parts.blocks),
        d_model=width,
        n_heads=first.attn.n_heads,
        n_key_value_heads=first.attn.n_key_value_heads,
        d_head=first.attn.d_head,
        d_mlp=int(inner or 4 * width),
        d_vocab=parts.embedding.num_embeddings,
        d_vocab_out=unembedded,
        n_ctx=parts.n_ctx,
        parallel_attn_mlp=first.parallel,
        use_normalization_before_and_after=first.attn_after is not None,
        output_logits_soft_cap=parts.logit_cap,
        experts_per_token=experts,
        gated_mlp=experts is not None or hasattr(first.mlp, "gate_proj"),
        normalization_type=None if without else type(parts.final_norm).__name__,
        positional_embedding_type=(
            "standard"
            if parts.positions is not None
            else "alibi"
            if first.attn.rotary is None
            else "rotary"
        ),
    )
