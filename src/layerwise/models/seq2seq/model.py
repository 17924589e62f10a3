"""``Seq2SeqModel``: an encoder-decoder model with the habits of ``HookedTransformer``.

It wraps a Hugging Face model and computes with its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from layerwise.ground.layer_names import DECODER, ENCODER
from layerwise.models.decoder.blocks import Past, greedy
from layerwise.models.libraries.hooked import HookedRootModule, HookPoint
from layerwise.models.libraries.quiet import silence_deprecation
from layerwise.models.libraries.untrusted_tokenizer import try_texts

from .blocks import HookedStack
from .parts import Seq2SeqParts, StackParts

Tokens = Int[torch.Tensor, "batch pos"]
Mask = Bool[torch.Tensor, "batch pos"]


@dataclass
class Seq2SeqConfig:
    """Sizes of an encoder-decoder, under the names that ``HookedTransformerConfig`` has."""

    model_name: str  # the name it goes by
    original_architecture: str  # the Hugging Face class
    n_encoder_layers: int
    n_decoder_layers: int
    d_model: int  # width of the residual stream
    encoder_heads: int  # heads of an encoder layer
    decoder_heads: int  # heads of a decoder layer, in self-attention and in cross-attention
    encoder_d_head: int  # width of a head in the encoder
    decoder_d_head: int  # width of a head in the decoder
    d_mlp: int  # width of the MLP's hidden layer
    d_vocab: int  # tokens that the decoder can say
    n_ctx: int  # longest input, and longest output, in tokens
    post_norm: bool  # whether norms come after the sums
    n_key_value_heads: None = None  # heads share no keys and values in these models
    attn_only: bool = False  # all blocks have an MLP
    parallel_attn_mlp: bool = False  # sublayers follow one another

    @property
    def n_layers(self) -> int:
        """Layers of both stacks."""
        return self.n_encoder_layers + self.n_decoder_layers

    @property
    def n_heads(self) -> int:
        """Heads of the layer that has most."""
        return max(self.encoder_heads, self.decoder_heads)

    @property
    def d_head(self) -> int:
        """Width of a head, of the wider ones."""
        return max(self.encoder_d_head, self.decoder_d_head)

    def n_heads_in_layer(self, layer: int) -> int:
        """Heads of a layer, numbered in the order of computation."""
        return self.encoder_heads if layer < self.n_encoder_layers else self.decoder_heads


class Seq2SeqModel(HookedRootModule):
    """An encoder-decoder model with hook points at every site.

    Hook names are TransformerLens's behind the stack's: ``encoder.blocks.3.hook_resid_post``,
    ``decoder.blocks.0.cross_attn.hook_z``. The weights are those of the Hugging Face model, which
    stays in use: an edit of one is an edit of the other.

    Attributes:
        original: the Hugging Face model.
        cfg: sizes.
        encoder: the encoder.
        decoder: the decoder.
        tokenizer: turns text into tokens; None if there is none.
        prefix: the tokens with which the decoder begins, before any that is scored or written.
    """

    def __init__(
        self,
        original: nn.Module,
        parts: Seq2SeqParts,
        *,
        prefix: tuple[int, ...],
        name: str,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        with silence_deprecation("HookedRootModule"):
            super().__init__()
        self.original, self.parts = original, parts
        self.prefix, self.tokenizer = prefix, tokenizer
        self.cfg = _config(parts, name, type(original).__name__)
        self.encoder, self.decoder = HookedStack(parts.encoder), HookedStack(parts.decoder)
        self.hook_logits = HookPoint()
        self.setup()
        self.requires_grad_(False).eval()

    def forward(
        self,
        tokens: Tokens,
        decoder_tokens: Int[torch.Tensor, "batch decoder_pos"] | None = None,
        attention_mask: Bool[torch.Tensor, "batch pos"] | None = None,
        decoder_attention_mask: Bool[torch.Tensor, "batch decoder_pos"] | None = None,
    ) -> Float[torch.Tensor, "batch decoder_pos d_vocab"]:
        """Logits at every decoder position.

        Args:
            tokens: what the encoder reads.
            decoder_tokens: what the decoder has said so far, ``prefix`` included; the prefix
                alone if None.
            attention_mask: which tokens are no padding; None for all.
            decoder_attention_mask: the same for the decoder's.
        """
        if decoder_tokens is None:
            decoder_tokens = torch.tensor([self.prefix] * len(tokens), device=tokens.device)
        memory = self.encode(tokens, attention_mask)
        return self.decode(decoder_tokens, memory, attention_mask, decoder_attention_mask)

    def encode(
        self, tokens: Tokens, attention_mask: Mask | None = None
    ) -> Float[torch.Tensor, "batch pos d_model"]:
        """The encoder's output, after its final norm."""
        return self.encoder(tokens, attention_mask)

    def decode(
        self,
        decoder_tokens: Int[torch.Tensor, "batch decoder_pos"],
        memory: Float[torch.Tensor, "batch pos d_model"],
        attention_mask: Bool[torch.Tensor, "batch pos"] | None = None,
        decoder_attention_mask: Bool[torch.Tensor, "batch seen"] | None = None,
        cache: list[Past] | None = None,
    ) -> Float[torch.Tensor, "batch decoder_pos d_vocab"]:
        """Logits at the decoder positions that are given.

        Args:
            decoder_tokens: the decoder's tokens; with a cache, the new ones only.
            memory: the encoder's output.
            attention_mask: which positions of it are no padding; None for all.
            decoder_attention_mask: which decoder tokens are no padding, cached ones included.
            cache: keys and values of earlier tokens by layer, none at all to begin with; is
                extended.
        """
        resid = self.decoder(decoder_tokens, decoder_attention_mask, memory, attention_mask, cache)
        return self.hook_logits(self.unembed(resid))

    def ln_final(self, resid: torch.Tensor) -> torch.Tensor:
        """The decoder's final norm; the identity in a post-norm model."""
        return self.parts.decoder.final_norm(resid)

    def unembed(
        self, resid: Float[torch.Tensor, "batch pos d_model"]
    ) -> Float[torch.Tensor, "batch pos d_vocab"]:
        """Logits from the decoder's output after its final norm."""
        parts = self.parts
        scaled = resid * parts.unembed_scale if parts.unembed_scale != 1.0 else resid
        return F.linear(scaled, parts.unembed.weight, parts.unembed_bias())

    @property
    def W_E(self) -> Float[torch.Tensor, "d_vocab_in d_model"]:
        """The token embedding of the encoder."""
        return self.parts.embedding.weight

    @property
    def W_U(self) -> Float[torch.Tensor, "d_model d_vocab"]:
        """The unembedding, with the scale that some models apply first."""
        weight, scale = self.parts.unembed.weight.T, self.parts.unembed_scale
        return weight if scale == 1.0 else weight * scale

    @property
    def b_U(self) -> Float[torch.Tensor, " d_vocab"]:
        """The bias of the logits; zeros where there is none."""
        bias = self.parts.unembed_bias()
        return self.parts.unembed.weight.new_zeros(self.cfg.d_vocab) if bias is None else bias

    def hook_name(self, layer: int, site: str) -> str:
        """The full name of a hook.

        Args:
            layer: number in the order of computation.
            site: TransformerLens's name within the block, e.g. ``hook_resid_post``,
                ``attn.hook_z``, ``cross_attn.hook_pattern``.
        """
        n_encoder = self.cfg.n_encoder_layers
        if layer < n_encoder:
            return f"{ENCODER}.blocks.{layer}.{site}"
        return f"{DECODER}.blocks.{layer - n_encoder}.{site}"

    def to_tokens(self, text: str | list[str]) -> Tokens:
        """Token ids of one text, special tokens as the original's tokenizer puts them."""
        assert self.tokenizer is not None, "the model has no tokenizer"
        texts = [text] if isinstance(text, str) else text
        try_texts(self.tokenizer, *texts)
        rows: Any = self.tokenizer(texts, padding=len(texts) > 1, return_tensors="pt")
        return rows.input_ids.to(self.W_E.device)

    @torch.inference_mode()
    def generate(
        self,
        tokens: Tokens,
        max_new_tokens: int,
        *,
        attention_mask: Mask | None = None,
        use_cache: bool = True,
    ) -> Int[torch.Tensor, "batch new"]:
        """Greedy tokens, all ``max_new_tokens`` of them, end tokens included.

        Args:
            tokens: what the encoder reads.
            max_new_tokens: how many.
            attention_mask: which tokens are no padding; None for all.
            use_cache: keep keys and values, rather than run the decoder on everything anew.
        """
        memory = self.encode(tokens, attention_mask)
        begin = torch.tensor([self.prefix] * len(tokens), device=tokens.device)
        given: dict[str, Any] = {"memory": memory, "attention_mask": attention_mask}
        run = partial(self.decode, **given, cache=[] if use_cache else None)
        return greedy(run, begin, max_new_tokens, use_cache=use_cache)


def _config(parts: Seq2SeqParts, name: str, architecture: str) -> Seq2SeqConfig:
    first, decoding = parts.encoder.blocks[0], parts.decoder.blocks[0]
    return Seq2SeqConfig(
        model_name=name,
        original_architecture=architecture,
        n_encoder_layers=len(parts.encoder.blocks),
        n_decoder_layers=len(parts.decoder.blocks),
        d_model=first.attn.q.in_features,
        encoder_heads=_heads(parts.encoder),
        decoder_heads=_heads(parts.decoder),
        encoder_d_head=first.attn.d_head,
        decoder_d_head=decoding.attn.d_head,
        d_mlp=max(first.mlp.up.out_features, decoding.mlp.up.out_features),
        d_vocab=parts.unembed.out_features,
        n_ctx=parts.n_ctx,
        post_norm=parts.encoder.post_norm,
    )


def _heads(stack: StackParts) -> int:
    return stack.blocks[0].attn.n_heads
