"""Similarity of residual streams: angular distance, and linear CKA."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Streams of float32 that differ by less, relative to their length, are the same.
_ROUNDING = 1e-6
Streams = Float[np.ndarray, "depth prompt d_model"]


def angular_distances(streams: Streams) -> Float[np.ndarray, "prompt depth depth"]:
    """Angle between the streams of a prompt at two depths, in units of pi (0 to 1).

    ``arccos(cosine) / pi`` (Gromov et al. 2024, arXiv:2403.17887, section 3.2). The cosine is
    clamped to -1 to 1, because rounding takes that of equal vectors beyond 1, where arccos is
    nan. A stream of zeros has no direction: its distances are nan.
    """
    length = np.linalg.norm(streams, axis=-1, keepdims=True)
    unit = np.divide(streams, length, out=np.full_like(streams, np.nan), where=length > 0)
    cosines = np.einsum("apd,bpd->pab", unit, unit)
    return np.arccos(np.clip(cosines, -1.0, 1.0)) / np.pi


def linear_cka(streams: Streams) -> Float[np.ndarray, "depth depth"]:
    """Linear CKA between depths, the examples being the prompts.

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` (Frobenius norms) of the centred streams X and Y (Kornblith et al.
    2019, arXiv:1905.00414, section 3). With fewer prompts than dimensions it is too near to 1:
    see ``unbiased_cka``. Nan where the streams of all prompts are the same.
    """
    return _normalise(_products(_grams(streams)))


def unbiased_cka(streams: Streams) -> Float[np.ndarray, "depth depth"]:
    """Linear CKA from the unbiased estimator of HSIC; near 0 for unrelated streams.

    HSIC_1 of Song et al. 2012 (J. Mach. Learn. Res. 13), for CKA by Nguyen et al. 2021
    (arXiv:2010.15327). Nan of fewer than four prompts.
    """
    n = streams.shape[1]
    if n < 4:
        return np.full((len(streams),) * 2, np.nan)
    grams = _grams(streams)
    grams[:, np.arange(n), np.arange(n)] = 0
    sums = grams.sum(axis=2)
    total = sums.sum(axis=1)
    hsic = _products(grams) + np.outer(total, total) / ((n - 1) * (n - 2))
    return _normalise(hsic - 2 / (n - 2) * sums @ sums.T)


def _grams(streams: Streams) -> Float[np.ndarray, "depth prompt prompt"]:
    """Inner products of the centred streams, which are scaled so that no product is large."""
    centred = streams - streams.mean(axis=1, keepdims=True)
    size, whole = (np.sqrt((x**2).mean(axis=(1, 2), keepdims=True)) for x in (centred, streams))
    varies = size > _ROUNDING * whole
    scaled = np.where(varies, centred, 0.0) / np.where(varies, size, 1.0)
    return scaled @ scaled.transpose(0, 2, 1)


def _products(grams: Float[np.ndarray, "depth prompt prompt"]) -> Float[np.ndarray, "depth depth"]:
    flat = grams.reshape(len(grams), -1)
    return flat @ flat.T


def _normalise(hsic: Float[np.ndarray, "depth depth"]) -> Float[np.ndarray, "depth depth"]:
    own = np.diag(hsic)
    size = np.sqrt(np.where(own > 0, own, np.nan))
    return hsic / np.outer(size, size)
