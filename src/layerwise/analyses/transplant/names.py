"""The names of models, directions, choices of layers and parts, as tables have them."""

from __future__ import annotations

BASE, OTHER = HOSTS = ("base", "other")
"""The two models."""
BRINGS, DESTROYS = "brings", "destroys"
"""The better model's layers put into the other; the other's put into the better model."""
SINGLE, TOGETHER, FROM_FIRST, FROM_LAST = "single", "together", "from_first", "from_last"
SETS = (SINGLE, TOGETHER, FROM_FIRST, FROM_LAST)
"""How layers are chosen."""
KV_GROUP = "kv_group"
BY_HEAD = ("z", KV_GROUP, "cross_z")
"""Single heads, and all heads that share keys and values."""
SITES = ("layer", "attn_out", "mlp_out", "cross_attn_out", *BY_HEAD)
"""What of a layer is exchanged."""
OUTSIDE = "outside"
"""Weights of no layer: embeddings, norms, the unembedding."""
