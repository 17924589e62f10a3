"""The kinds of models: decoders of TransformerLens or over their originals, encoder-decoders.

What several places ask of the kind is asked here, since one of the classes is not ours; where code
itself differs, ``by_kind`` chooses. Decoders of both sorts have the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from layerwise.ground.layer_names import DECODER, ENCODER
from layerwise.models.decoder.model import DecoderConfig, DecoderModel
from layerwise.models.decoder.packed import has_packed, packed_buffers
from layerwise.models.libraries.hooked import HookedTransformer
from layerwise.models.seq2seq.model import Seq2SeqConfig, Seq2SeqModel

from .loaded import HUGGING_FACE, TRANSFORMER_LENS

DecoderOnly = HookedTransformer | DecoderModel
"""A decoder-only model, by TransformerLens or over its original."""
Model = DecoderOnly | Seq2SeqModel
"""Any kind."""
_T = TypeVar("_T")


def is_seq2seq(model: Model) -> bool:
    """True if a model is an encoder-decoder."""
    return isinstance(model, Seq2SeqModel)


def by_kind(
    model: Model,
    decoder_only: Callable[[DecoderOnly], _T],
    seq2seq: Callable[[Seq2SeqModel], _T],
) -> _T:
    """Call one of two functions, by the model's kind."""
    return seq2seq(model) if isinstance(model, Seq2SeqModel) else decoder_only(model)


def runs_original_modules(model: Model) -> bool:
    """True if a decoder runs the modules of its Hugging Face original."""
    return isinstance(model, DecoderModel)


def model_backend(model: Model) -> str:
    """The backend of a model: ``TRANSFORMER_LENS`` or ``HUGGING_FACE``."""
    return TRANSFORMER_LENS if isinstance(model, HookedTransformer) else HUGGING_FACE


def is_quantized(model: Model) -> bool:
    """True if weights of a model are kept in fewer bits than a number format has."""
    return isinstance(model, DecoderModel) and has_packed(model.original)


def as_seq2seq(model: Model) -> Seq2SeqModel:
    """A model that is known to be an encoder-decoder."""
    assert isinstance(model, Seq2SeqModel), "only an encoder-decoder has an encoder"
    return model


def to_dtype_device(model: Model, dtype: torch.dtype, device: torch.device | None = None) -> Model:
    """The model itself, in another number format, and on another device if one is given."""
    if isinstance(model, Seq2SeqModel | DecoderModel):
        return (model if device is None else model.to(device)).to(dtype)
    if device is not None:
        model.to(device, print_details=False)
    return model.to(dtype, print_details=False)


def original_model(model: Model) -> nn.Module | None:
    """The Hugging Face model that is computed with; None if there is none any more."""
    return model.original if isinstance(model, Seq2SeqModel | DecoderModel) else None


def kept_buffers(model: Model) -> list[tuple[str, torch.Tensor]]:
    """Buffers that count as weights, by name."""
    # Those that an original's files hold, such as what some add to their logits, or the scales of
    # quantized weights; others follow from the configuration.
    original = original_model(model)
    if original is None:
        return []
    stored = original.state_dict(keep_vars=True)
    kept = {name: buffer for name, buffer in original.named_buffers() if name in stored}
    kept |= dict(packed_buffers(original))
    return [(f"original.{name}", buffer) for name, buffer in kept.items()]


def model_blocks(model: Model) -> list[Any]:
    """The blocks of all layers, in the order of computation."""
    if isinstance(model, Seq2SeqModel):
        return [*model.encoder.blocks, *model.decoder.blocks]
    return list(model.blocks)


def decoder_prefix(model: Model) -> tuple[int, ...]:
    """Tokens that the decoder begins with; empty in a decoder-only model."""
    return model.prefix if isinstance(model, Seq2SeqModel) else ()


def before_answer(model: Model, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens before the answer, in the stack that answers."""
    return model.prefix if isinstance(model, Seq2SeqModel) else prompt


def model_inputs(
    model: Model, prompts: Sequence[Sequence[int]], answer: Sequence[int] = ()
) -> tuple[torch.Tensor, ...]:
    """Model inputs: prompts of one length, each with the answer so far."""
    device = model.W_E.device
    if isinstance(model, Seq2SeqModel):
        decoded = torch.tensor([[*model.prefix, *answer]], device=device)
        return torch.tensor(prompts, device=device), decoded.expand(len(prompts), -1)
    return (torch.tensor([[*prompt, *answer] for prompt in prompts], device=device),)


def token_passes(model: Model, n_prompt: int) -> int:
    """Tokens that one forward over a prompt pushes through a block, before any is said."""
    if isinstance(model, Seq2SeqModel):
        cfg = model.cfg
        return cfg.n_encoder_layers * n_prompt + cfg.n_decoder_layers * len(model.prefix)
    return model.cfg.n_layers * n_prompt


def logit_cap(model: Model) -> float | None:
    """The model's soft-cap of the logits; None if it has none."""
    cap = None if isinstance(model, Seq2SeqModel) else model.cfg.output_logits_soft_cap
    return float(cap) if cap is not None and cap > 0 else None


def has_norms_after(cfg: Any) -> bool:
    """True if a norm stands between a sublayer and the stream, so that it is no term of a sum."""
    if isinstance(cfg, Seq2SeqConfig):  # in a post-norm one the norm is of the sum
        return False
    after = cfg.use_normalization_before_and_after
    if isinstance(cfg, DecoderConfig):
        return bool(after)
    from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

    return bool(after) or cfg.original_architecture in POST_NORM_ARCHITECTURES


def n_encoder_layers(model: Model) -> int:
    """Layers of the encoder; 0 for a decoder-only model."""
    return model.cfg.n_encoder_layers if isinstance(model, Seq2SeqModel) else 0


def n_layer_heads(model: Model, layer: int) -> int:
    """Heads of a layer; the stacks of an encoder-decoder may differ in that."""
    return (
        model.cfg.n_heads_in_layer(layer) if isinstance(model, Seq2SeqModel) else model.cfg.n_heads
    )


def vocabularies(model: Model) -> tuple[int, int]:
    """Number of tokens that a model can read in a prompt, and of those that it can say."""
    if isinstance(model, Seq2SeqModel):
        return model.parts.embedding.num_embeddings, model.cfg.d_vocab
    return model.cfg.d_vocab, model.cfg.d_vocab_out


_WITHIN = {
    "z": "attn.hook_z",
    "pattern": "attn.hook_pattern",
    "cross_z": "cross_attn.hook_z",
    "cross_pattern": "cross_attn.hook_pattern",
    "cross_k": "cross_attn.hook_k",
    "cross_v": "cross_attn.hook_v",
}


def hook_name(model: Model, layer: int, site: str) -> str:
    """The full name of a site's hook."""
    within = _WITHIN.get(site, f"hook_{site}")
    if isinstance(model, Seq2SeqModel):
        return model.hook_name(layer, within)
    return f"blocks.{layer}.{within}"


def embedding_hooks(model: Model) -> tuple[str, ...]:
    """The hooks at which embedded tokens enter a stack."""
    if isinstance(model, Seq2SeqModel):
        return f"{ENCODER}.hook_embed", f"{DECODER}.hook_embed"
    return (hook_name(model, 0, "resid_pre"),)


def key_heads(model: Model) -> tuple[int, int]:
    """Key/value heads, and their width, of the stack that answers."""
    if isinstance(model, Seq2SeqModel):
        return model.cfg.decoder_heads, model.cfg.decoder_d_head
    return model.cfg.n_key_value_heads or model.cfg.n_heads, model.cfg.d_head


def heads_per_key(cfg: Any) -> int:
    """Number of query heads that share a key/value head."""
    return cfg.n_heads // (cfg.n_key_value_heads or cfg.n_heads)
