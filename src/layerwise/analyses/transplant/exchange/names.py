"""The names of models, directions, choices of layers and parts, as tables have them."""

from __future__ import annotations

from layerwise.presentation.wording import SUBLAYER_WORDS

BASE, OTHER = HOSTS = ("base", "other")
"""The two models."""
BRINGS, DESTROYS = "brings", "destroys"
"""The better model's layers put into the other; the other's put into the better model."""
WEIGHTS, ACTIVATIONS = EXCHANGES = ("weights", "activations")
"""Kinds of exchange: the other model's weights, or its activations for the same tokens."""
SINGLE, TOGETHER, FROM_FIRST, FROM_LAST = "single", "together", "from_first", "from_last"
SETS = (SINGLE, TOGETHER, FROM_FIRST, FROM_LAST)
"""Ways of choosing layers."""
GREEDY = "greedy"
"""Chosen one after the other, each as the one that moves most beside those before."""
KV_GROUP = "kv_group"
BY_HEAD = ("z", KV_GROUP, "cross_z")
"""Single heads, and all heads that share keys and values."""
NORMS = "norms"
"""All norms of a layer."""
EMBED, UNEMBED, FINAL_NORM, RELATIVE = "embed", "unembed", "ln_final", "rel_pos"
TIED = "tied_embed"
"""Embeddings that are the unembedding, too."""
OF_NO_LAYER = (EMBED, TIED, FINAL_NORM, UNEMBED, RELATIVE)
"""Sites outside of the layers, or shared by all layers of a stack."""
SITES = (
    "layer", "attn_out", "mlp_out", "cross_attn_out", *BY_HEAD, NORMS,
    EMBED, FINAL_NORM, UNEMBED, RELATIVE,
)  # fmt: skip
"""Sites that can be exchanged."""
WITH_ACTIVATIONS = ("layer", "attn_out", "mlp_out", "cross_attn_out", *BY_HEAD)
"""Sites whose activations can be exchanged: outputs of a layer, a sublayer or a head."""
OUTSIDE = "outside"
"""Weights of no layer, one by one: embeddings, norms, the unembedding."""


def site_words(site: str, exchange: str) -> str:
    """Words before the layers or heads: ``attention of``, ``the MLP output of``."""
    part = "" if site in ("layer", *BY_HEAD) else f"{(SUBLAYER_WORDS | {NORMS: NORMS})[site]} "
    if exchange != ACTIVATIONS:
        return f"{part}of " if part else ""
    return "the residual stream after " if site == "layer" else f"the {part}output of "
