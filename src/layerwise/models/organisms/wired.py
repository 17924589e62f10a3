"""The wired model: a decoder whose weights are written by hand, so that every answer is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from layerwise.models.conversion.convert import refuse_absent_backend, without_weights
from layerwise.models.decoder.capture import attend
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.decoder.parts import AttentionParts, BlockParts, DecoderParts
from layerwise.models.instance.facts import Origin, attach_origin, model_facts
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.models.instance.loaded import HUGGING_FACE
from layerwise.models.libraries.hooked import (
    HookedTransformerConfig,
    has_hooked_transformer,
)
from layerwise.models.weights.strides import restride

from . import _wiring as wiring
from .language import WIRED, Language
from .layout import WiredLayout
from .tokenizer import toy_tokenizer

NAME = "wired-decoder"
Weights = dict[str, torch.Tensor]
"""Parameters by TransformerLens's names, in its order, in which numbers are drawn."""


def wired_model(
    layout: WiredLayout | None = None,
    language: Language = WIRED,
    *,
    seed: int = 0,
    n_ctx: int = 64,
    backend: str = "auto",
) -> DecoderOnly:
    """A decoder that looks up, knows facts and takes two steps, all in planted places.

    The residual stream consists of one-hot subspaces, turned by a random rotation so that
    nothing can be read off single coordinates. Heads attend by large query-key products, and
    relu neurons are AND gates. Layers and heads without a mechanism have random inputs and zero
    output weights. Where the model doesn't know, it says the end of an answer, and ranks the
    values by a fixed order of its own.
    """
    refuse_absent_backend(backend)
    layout = WiredLayout() if layout is None else layout
    rng = np.random.default_rng([seed, *b"wired"])
    looked_up = (*language.keys, *(language.entities if layout.reads_facts else ()))
    spaces = wiring.subspaces(_features(language, n_ctx, len(looked_up)), rng)
    tokenizer = toy_tokenizer(language)
    sizes = _sizes(layout, language, spaces)
    weights = _write_weights(layout, language, spaces, sizes, looked_up, rng)
    model: DecoderOnly
    if backend != HUGGING_FACE and has_hooked_transformer():
        model = without_weights(_config(sizes), tokenizer)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        restride(model)
    else:
        own = WiredDecoder(weights, sizes)
        model = DecoderModel(own, own.parts(), name=NAME, tokenizer=tokenizer)
    attach_origin(model, Origin(model_facts(model), tokenizer))
    return model


def _features(language: Language, n_ctx: int, n_looked_up: int) -> dict[str, int]:
    """The features of the residual stream, and their sizes."""
    n_keys, n_values = language.n_keys, language.n_values
    return {
        "word": len(language.words),  # the word at this position, by token id
        "place": n_ctx,  # the position
        "before": n_looked_up,  # the word before, if it is looked up
        "found": n_keys + n_values,  # the key or value that the first look-up found
        "found_next": n_values,  # the value that the second look-up found
        # The relation and the entity that are asked about.
        "subject": language.n_relations + language.n_entities,
        "asked": 2,  # whether one look-up is asked for; whether two are
        "answer": n_values,  # the value to be said
    }


def _sizes(layout: WiredLayout, language: Language, spaces: wiring.Spaces) -> dict[str, Any]:
    read = ("place", "before", "found", "subject")
    return {
        "n_layers": layout.n_layers,
        "n_heads": layout.n_heads,
        "n_key_value_heads": None if layout.n_shared == 1 else layout.n_heads // layout.n_shared,
        "d_model": spaces["word"].shape[1],
        "d_head": max(len(spaces[feature]) for feature in read),
        "d_mlp": max(len(language.facts), 2 * language.n_values),
        "d_vocab": len(language.words),
        "n_ctx": len(spaces["place"]),
    }


def _config(sizes: dict[str, Any]) -> HookedTransformerConfig:
    return HookedTransformerConfig(
        **sizes,
        model_name=NAME,
        act_fn="relu",
        normalization_type=None,
        positional_embedding_type="standard",
        use_attn_scale=False,
        device="cpu",
        dtype=torch.float32,
    )


def _mechanisms(
    layout: WiredLayout, language: Language, spaces: wiring.Spaces, looked_up: tuple[str, ...]
) -> tuple[list[wiring.Head], list[wiring.Gates]]:
    """Planted weights: a copy of the word before, look-ups, facts, and what lets them out."""
    place, found = spaces["place"], spaces["found"][language.n_keys :]
    asked = wiring.words(spaces, language, looked_up)
    heads = [
        wiring.Head(spot, place, wiring.earlier_place(spaces, 1), asked, spaces["before"])
        for spot in (layout.previous, layout.previous_copy)
        if spot is not None
    ]
    key = wiring.after_key(spaces, language)
    if layout.reads_facts:  # where nothing is stated of an entity, the start is attended to
        key += 1.5 * wiring.start(spaces, language)
    heads += wiring.look_ups(layout, language, spaces, key)
    gates = []
    if language.facts:
        head, known = wiring.facts(layout, language, spaces, spaces["answer"])
        read = found.sum(axis=0) if layout.reads_facts else 0.0  # silences what is known
        heads.append(head)
        gates.append(known._replace(both=known.both - read))
    # One head looks at what is asked; two neurons a value let it out after one hop or two.
    of = ("of",) if layout.reads_facts else ()
    hops = np.concatenate([spaces["asked"], spaces["asked"][: len(of)]])
    asks = wiring.words(spaces, language, ("ask", "ask2", *of))
    heads.append(wiring.Head(layout.gate, place, wiring.earlier_place(spaces, 2), asks, hops))
    once, twice = found + spaces["asked"][0], spaces["found_next"] + spaces["asked"][1]
    both, out = np.concatenate([once, twice]), np.concatenate([spaces["answer"]] * 2)
    return heads, [*gates, wiring.Gates(layout.gate.layer, both, out)]


def _write_weights(
    layout: WiredLayout,
    language: Language,
    spaces: wiring.Spaces,
    sizes: dict[str, Any],
    looked_up: tuple[str, ...],
    rng: np.random.Generator,
) -> Weights:
    """Every parameter: mechanisms where they are planted, nothing elsewhere."""
    reading = ("W_Q", "W_K", "W_V", "W_in")
    weights = {
        name: wiring.read_at_random(shape, sizes["d_model"], rng, reads=name.endswith(reading))
        for name, shape in _shapes(sizes).items()
    }
    weights["embed.W_E"] = torch.from_numpy(spaces["word"]).float()
    weights["pos_embed.W_pos"] = torch.from_numpy(spaces["place"]).float()
    logits, weights["unembed.b_U"] = wiring.unembed_weights(language, spaces, rng)
    weights["unembed.W_U"] = logits.T
    heads, gates = _mechanisms(layout, language, spaces, looked_up)
    for head in heads:
        _put_head(weights, layout, head)
    for layer, both, out in gates:
        mlp, n_gates = f"blocks.{layer}.mlp.", len(both)
        weights[f"{mlp}W_in"][:, :n_gates] = torch.from_numpy(both.T).float()
        weights[f"{mlp}b_in"][:n_gates] = -1.5
        weights[f"{mlp}W_out"][:n_gates] = torch.from_numpy(2 * out).float()
    return weights


def _put_head(weights: Weights, layout: WiredLayout, planted: wiring.Head) -> None:
    attn, head = f"blocks.{planted.spot.layer}.attn.", planted.spot.head
    group, own = head // layout.n_shared, _own(layout.n_shared > 1)
    for name, place, rows in (
        ("W_Q", head, wiring.SHARP * planted.query),
        (f"{own}W_K", group, planted.key),
        (f"{own}W_V", group, planted.value),
    ):
        weights[attn + name][place] = 0
        weights[attn + name][place, :, : len(rows)] = torch.from_numpy(rows.T).float()
    weights[f"{attn}W_O"][head, : len(planted.out)] = torch.from_numpy(planted.out).float()


def _own(shared: bool) -> str:
    """Prefix that TransformerLens puts before the names of shared keys and values."""
    return "_" if shared else ""


def _shapes(sizes: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d_model, d_head, d_mlp = (sizes[name] for name in ("d_model", "d_head", "d_mlp"))
    n_heads, shared = sizes["n_heads"], sizes["n_key_value_heads"]
    n_keys, own = shared or n_heads, _own(shared is not None)
    block = {
        "attn.W_Q": (n_heads, d_model, d_head),
        "attn.W_O": (n_heads, d_head, d_model),
        "attn.b_Q": (n_heads, d_head),
        "attn.b_O": (d_model,),
        f"attn.{own}W_K": (n_keys, d_model, d_head),
        f"attn.{own}W_V": (n_keys, d_model, d_head),
        f"attn.{own}b_K": (n_keys, d_head),
        f"attn.{own}b_V": (n_keys, d_head),
        "mlp.W_in": (d_model, d_mlp),
        "mlp.b_in": (d_mlp,),
        "mlp.W_out": (d_mlp, d_model),
        "mlp.b_out": (d_model,),
    }
    layers = range(sizes["n_layers"])
    return {
        "embed.W_E": (sizes["d_vocab"], d_model),
        "pos_embed.W_pos": (sizes["n_ctx"], d_model),
        **{f"blocks.{layer}.{name}": shape for layer in layers for name, shape in block.items()},
        "unembed.W_U": (d_model, sizes["d_vocab"]),
        "unembed.b_U": (sizes["d_vocab"],),
    }


class WiredDecoder(nn.Module):
    """Runs the weights of a wired model: no norms, relu, unscaled scores."""

    def __init__(self, weights: Weights, sizes: dict[str, Any]) -> None:
        super().__init__()
        # The width of the MLP, under the name that Hugging Face has for it.
        self.config = SimpleNamespace(intermediate_size=sizes["d_mlp"])
        self.words = nn.Embedding.from_pretrained(weights["embed.W_E"])
        self.places = nn.Embedding.from_pretrained(weights["pos_embed.W_pos"])
        blocks = (_Block(weights, f"blocks.{layer}.") for layer in range(sizes["n_layers"]))
        self.blocks = nn.ModuleList(blocks)
        self.lm_head = _linear(weights["unembed.W_U"], weights["unembed.b_U"])

    def parts(self) -> DecoderParts:
        """Parts that use the weights."""
        blocks: Any = self.blocks
        return DecoderParts(
            embedding=self.words,
            embed_scale=1.0,
            blocks=tuple(
                BlockParts(block.attn.parts(), None, None, block.mlp, None, None)
                for block in blocks
            ),
            final_norm=nn.Identity(),
            unembed=self.lm_head,
            logit_scale=1.0,
            logit_cap=None,
            n_ctx=self.places.num_embeddings,
            positions=self.places,
        )


class _Block(nn.Module):
    def __init__(self, weights: Weights, at: str) -> None:
        super().__init__()
        self.attn = _Attention(weights, f"{at}attn.")
        up, down = (
            _linear(weights[f"{at}mlp.W_{side}"], weights[f"{at}mlp.b_{side}"])
            for side in ("in", "out")
        )
        self.mlp = nn.Sequential(up, nn.ReLU(), down)


class _Attention(nn.Module):
    def __init__(self, weights: Weights, at: str) -> None:
        super().__init__()
        own = _own(f"{at}_W_K" in weights)
        self.n_heads, _, self.d_head = weights[f"{at}W_Q"].shape
        # What makes the queries, keys or values of all heads, side by side.
        self.q, self.k, self.v = (
            _linear(weights[f"{at}{w}"].transpose(0, 1).flatten(1), weights[f"{at}{b}"].flatten())
            for w, b in (("W_Q", "b_Q"), (f"{own}W_K", f"{own}b_K"), (f"{own}W_V", f"{own}b_V"))
        )
        self.out = _linear(weights[f"{at}W_O"].flatten(0, 1), weights[f"{at}b_O"])

    def forward(
        self,
        hidden_states: Float[torch.Tensor, "batch pos d_model"],
        attention_mask: Float[torch.Tensor, ...] | None = None,
        **given: Any,
    ) -> Any:
        """Arguments that attention functions of transformers are given; see ``decoder.capture``."""
        q, k, v = (
            made(hidden_states).unflatten(-1, (-1, self.d_head)).transpose(1, 2)
            for made in (self.q, self.k, self.v)
        )
        return attend(self, q, k, v, attention_mask, scaling=1.0)

    def parts(self) -> AttentionParts:
        n_keys, width = self.k.out_features // self.d_head, self.d_head
        return AttentionParts(self, self.out, None, self.n_heads, n_keys, width, width, scale=1.0)


def _linear(
    weight: Float[torch.Tensor, "d_in d_out"], bias: Float[torch.Tensor, " d_out"]
) -> nn.Linear:
    # Without memory, torch draws no numbers from its global generator.
    with torch.device("meta"):
        made = nn.Linear(weight.shape[0], weight.shape[1])
    made.weight, made.bias = (
        nn.Parameter(parameter.contiguous(), requires_grad=False) for parameter in (weight.T, bias)
    )
    return made
