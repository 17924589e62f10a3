"""The sizes of a model that decide its arithmetic and its memory, and the arithmetic.

Knows neither requests nor machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformer_lens import HookedTransformer

from .blocks import why_not_packed


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that decide its arithmetic and memory.

    Attributes:
        n_layers: number of blocks.
        d_model: width of the residual stream.
        d_heads: query heads times their width.
        d_kv: key/value heads times their width.
        d_mlp: width of the MLP, times the experts that a token goes through; 0 without MLP.
        mlp_products: matrix products of an MLP: 3 if it is gated, otherwise 2.
        d_vocab: size of the vocabulary.
        itemsize: bytes of one activation.
        in_parts: whether the engine can run blocks in part.
    """

    n_layers: int
    d_model: int
    d_heads: int
    d_kv: int
    d_mlp: int
    mlp_products: int
    d_vocab: int
    itemsize: int
    in_parts: bool

    @classmethod
    def of(cls, model: HookedTransformer) -> Sizes:
        """The sizes of a model, whose weights need not be there."""
        cfg: Any = model.cfg
        return cls(
            n_layers=cfg.n_layers,
            d_model=cfg.d_model,
            d_heads=cfg.n_heads * cfg.d_head,
            d_kv=(cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head,
            d_mlp=0 if cfg.attn_only else cfg.d_mlp * (cfg.experts_per_token or 1),
            mlp_products=3 if cfg.gated_mlp else 2,
            d_vocab=cfg.d_vocab,
            itemsize=model.W_E.element_size(),
            in_parts=why_not_packed(model) is None,
        )

    def flop(self, token_passes: float | int, pairs: float | int, rows: float | int) -> float:
        """Floating-point operations of the matrix products; one multiply-add is two.

        With d the width of the residual stream, h that of all query heads, g that of all
        key/value heads, m that of the MLP, p its products (2, gated 3), and V the vocabulary,

            2 token_passes d (2h + 2g + p m) + 4 pairs h + 2 rows d V

        for queries, keys, values and output; for the MLP; for scores and their mixtures of
        values; for the unembedding. Norms, activations, rotations and softmaxes, some per cent
        of the whole, are left out (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).

        Args:
            token_passes: tokens pushed through one block.
            pairs: queries times keys that they meet, in one block.
            rows: positions whose logits are computed.
        """
        width = 2 * self.d_heads + 2 * self.d_kv + self.mlp_products * self.d_mlp
        return float(
            2 * token_passes * self.d_model * width
            + 4 * pairs * self.d_heads
            + 2 * rows * self.d_model * self.d_vocab
        )
