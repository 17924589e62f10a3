"""The weights of a wired model, written mechanism by mechanism into a rotated residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from layerwise.models.conversion.hooked import HookedTransformer
from layerwise.models.decoder.capture import attend
from layerwise.models.decoder.parts import AttentionParts, BlockParts, Parts
from layerwise.models.instance.kinds import heads_per_key

from .language import END, START, Language
from .layout import Spot, WiredLayout


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


Written = HookedTransformer | WiredWeights
"""What weights are written into; both have the same names."""
Directions = Float[np.ndarray, "_ d_model"]

SHARP = 40.0
"""Score of a match before the softmax; what does not match has 0, so it gets exp(-40)."""
LOUD = 12.0
"""Logit of an answer that is known."""
UNSURE = 0.5
"""Where no answer is known, logits of the values lie evenly between 0 and this, and that of the
end of an answer above them."""


class Subspaces:
    """Orthonormal subspaces of the residual stream by feature, in a random basis."""

    def __init__(self, sizes: dict[str, int], rng: np.random.Generator) -> None:
        n_features = sum(sizes.values())
        self.basis, _ = np.linalg.qr(rng.normal(size=(n_features, n_features)))
        parts = np.split(self.basis, np.cumsum(list(sizes.values()))[:-1])
        self.parts = dict(zip(sizes, parts, strict=True))

    def __getattr__(self, feature: str) -> Directions:
        """The directions of a feature, such as ``word`` by token id."""
        if feature not in self.__dict__.get("parts", {}):
            raise AttributeError(feature)
        return self.parts[feature]


def subspaces(
    layout: WiredLayout, language: Language, n_ctx: int, rng: np.random.Generator
) -> Subspaces:
    """The subspaces of a wired decoder."""
    n_keys, n_values = language.n_keys, language.n_values
    sizes = {
        "word": len(language.words),  # the word at this position, by token id
        "place": n_ctx,  # the position
        "before": len(looked_up(layout, language)),  # the word before, if it is looked up
        "found": n_keys + n_values,  # the key or value that the first look-up found
        "found_next": n_values,  # the value that the second look-up found
        # The relation and the entity that are asked about.
        "subject": language.n_relations + language.n_entities,
        "asked": 2,  # whether one look-up is asked for; whether two are
        "answer": n_values,  # the value to be said
    }
    return Subspaces(sizes, rng)


def looked_up(layout: WiredLayout, language: Language) -> tuple[str, ...]:
    """Words that can be looked up: keys, and entities if facts are read."""
    return (*language.keys, *(language.entities if layout.reads_facts else ()))


@torch.no_grad()
def write_weights(
    model: Written,
    layout: WiredLayout,
    language: Language,
    spaces: Subspaces,
    rng: np.random.Generator,
) -> None:
    """Give every parameter its value: mechanisms where they are planted, nothing elsewhere."""
    _write_nothing(model, rng)
    _write_ends(model, language, spaces, rng)
    _write_look_ups(model, layout, language, spaces)
    if language.facts:
        _write_facts(model, layout, language, spaces)
    _write_gate(model, layout, language, spaces)


def _write_nothing(model: Written, rng: np.random.Generator) -> None:
    """Heads and neurons that read at random, and write exactly 0."""
    for name, parameter in model.named_parameters():
        reads = name.endswith(("W_Q", "W_K", "W_V", "W_in"))
        noise = rng.normal(size=parameter.shape) / model.cfg.d_model**0.5
        parameter.copy_(torch.from_numpy(noise if reads else np.zeros(parameter.shape)))


def _write_ends(
    model: Written, language: Language, spaces: Subspaces, rng: np.random.Generator
) -> None:
    """Embedding and unembedding; after a value the end follows, without any layer's help."""
    ids = _ids(language)
    values, end = [ids[word] for word in language.values], ids[END]
    model.W_E.copy_(torch.from_numpy(spaces.word))
    model.W_pos.copy_(torch.from_numpy(spaces.place))
    model.W_U[:, values] = torch.from_numpy(LOUD * spaces.answer.T).float()
    model.W_U[:, end] = torch.from_numpy(LOUD * spaces.word[values].sum(axis=0)).float()
    order = rng.permutation(len(values)) / len(values)
    model.b_U.fill_(-UNSURE)
    model.b_U[values] = torch.from_numpy(UNSURE * order).float()
    model.b_U[end] = 2 * UNSURE


def _write_look_ups(
    model: Written, layout: WiredLayout, language: Language, spaces: Subspaces
) -> None:
    """The word before; the word that came after it elsewhere; the word that came after that."""
    keys, values = (
        _words(spaces, language, language.keys),
        _words(spaces, language, language.values),
    )
    queries = _words(spaces, language, looked_up(layout, language))
    for spot in (layout.previous, layout.previous_copy):
        if spot is not None:
            _write_head(model, spot, spaces.place, _back(spaces, 1), queries, spaces.before)
    others = [w for w in language.words if w not in (*language.keys, *language.values)]
    # A key that is asked for, or ends a pair, stands before a mark; that is not its answer.
    after_key = spaces.before - _words(spaces, language, others).sum(axis=0)
    if layout.reads_facts:  # where nothing is stated of an entity, the start is attended to
        after_key += 1.5 * _words(spaces, language, (START,))
    known = np.concatenate([keys, values])
    _write_head(model, layout.look_up, spaces.before, after_key, known, spaces.found)
    middle = spaces.found[: language.n_keys]
    _write_head(model, layout.second_hop, middle, after_key, values, spaces.found_next)


def _write_facts(
    model: Written, layout: WiredLayout, language: Language, spaces: Subspaces
) -> None:
    """One head looks at relation and entity, half each; one neuron stands for each fact."""
    spot = layout.facts
    named = (*language.relations, *language.entities)
    queries = _words(spaces, language, named)
    both = _back(spaces, 1) + _back(spaces, 3)
    _write_head(model, spot, spaces.place, both, queries, 2 * spaces.subject)
    row = {word: spaces.subject[i] for i, word in enumerate(named)}
    answers = {value: spaces.answer[i] for i, value in enumerate(language.values)}
    facts = language.facts.items()
    read = spaces.found[language.n_keys :].sum(axis=0) if layout.reads_facts else 0.0
    pairs = [row[relation] + row[entity] - read for (relation, entity), _ in facts]
    _write_gates(model, spot.layer, np.array(pairs), np.array([answers[v] for _, v in facts]))


def _write_gate(model: Written, layout: WiredLayout, language: Language, spaces: Subspaces) -> None:
    """One head looks at what is asked; two neurons a value let it out after one hop or two."""
    spot, of = layout.gate, ("of",) if layout.reads_facts else ()
    asks, wanted = _words(spaces, language, ("ask", "ask2", *of)), spaces.asked
    wanted = np.concatenate([wanted, wanted[: len(of)]])
    _write_head(model, spot, spaces.place, _back(spaces, 2), asks, wanted)
    once = spaces.found[language.n_keys :] + spaces.asked[0]
    twice = spaces.found_next + spaces.asked[1]
    out = np.concatenate([spaces.answer, spaces.answer])
    _write_gates(model, spot.layer, np.concatenate([once, twice]), out)


def _write_head(
    model: Written,
    spot: Spot,
    query: Directions,
    key: Directions,
    value: Directions,
    out: Directions,
) -> None:
    """A head that attends to where its key i meets the query i, and copies value i to out i."""
    block: Any = model.blocks[spot.layer]
    attn = block.attn
    n_shared = heads_per_key(model.cfg)
    keys, values = (attn.W_K, attn.W_V) if n_shared == 1 else (attn._W_K, attn._W_V)
    group = spot.head // n_shared
    written = ((attn.W_Q, spot.head, SHARP * query), (keys, group, key), (values, group, value))
    for weight, head, rows in written:
        weight[head] = 0
        weight[head, :, : len(rows)] = torch.from_numpy(rows.T).float()
    attn.W_O[spot.head, : len(out)] = torch.from_numpy(out).float()


def _write_gates(model: Written, layer: int, both: Directions, out: Directions) -> None:
    """AND gates: neuron i writes out i where both of two features, summed in ``both``, are 1."""
    block: Any = model.blocks[layer]
    mlp = block.mlp
    n = len(both)
    mlp.W_in[:, :n] = torch.from_numpy(both.T).float()
    mlp.b_in[:n] = -1.5
    mlp.W_out[:n] = torch.from_numpy(2 * out).float()


def _back(spaces: Subspaces, steps: int) -> Directions:
    """For each position the direction of the place so many steps before it; 0 if there is none."""
    gone = np.zeros_like(spaces.place[:steps])
    return np.concatenate([gone, spaces.place[:-steps]])


def _ids(language: Language) -> dict[str, int]:
    return {word: index for index, word in enumerate(language.words)}


def _words(spaces: Subspaces, language: Language, words: Sequence[str]) -> Directions:
    ids = _ids(language)
    return spaces.word[[ids[word] for word in words]]
