"""The lenses by name, and what the streams are called that they read."""

from __future__ import annotations

import pandas as pd

from layerwise.ground.layer_names import stream_name

LOGIT, TUNED = LENSES = ("logit", "tuned")
"""Lenses to ask for: the final norm and the unembedding read the stream of the decoder (or of
the only stack) as it is, or translated by a trained map."""
DECODER_LENS, TUNED_DECODER_LENS = OF_ENCODER = "decoder", "tuned decoder"
"""Lenses of an encoder that come with these: the whole decoder reads the stream behind one layer
as it is, which is the exact run of a shorter model, or translated by a trained map, a probe."""
LENS_ORDER = (LOGIT, TUNED, DECODER_LENS, TUNED_DECODER_LENS)
"""The order in which they are shown."""
UNTRANSLATED = {TUNED_DECODER_LENS: DECODER_LENS, TUNED: LOGIT}
"""By trained lens, in the order of computation, the one that it is with no translator."""
FEWER_RIVALS = "an answer with fewer rivals, such as a digit among digits, is on top earlier"
"""The reason why a lens orders no two capabilities: their answers compete with other words."""


def tuned_lens_name(depth: int, n_encoder: int) -> str:
    """Name of reading through the translator of a depth."""
    return TUNED_DECODER_LENS if depth < n_encoder else TUNED


def stream_names(table: pd.DataFrame, n_encoder: int) -> list[str]:
    """Names of an encoder-decoder's layers whose streams lenses read."""
    return [
        stream_name(int(layer), n_encoder, of_decoder=lens not in OF_ENCODER)
        for layer, lens in zip(table["layer"], table["lens"], strict=True)
    ]
