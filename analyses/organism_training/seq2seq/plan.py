"""Plan of a trained encoder-decoder: the layers that are planted, and its training texts.

Layers are numbered in the order of computation, all of the encoder before the decoder. As in the
decoder (``plan`` of the package above), layers that a form does not need are skipped at random,
and what it asks is read after the last one that it needs; here after the last one in the encoder
too.
"""

from __future__ import annotations

from ..training_forms import Form, brackets, facts, lookup, two_hop

N_ENCODER, N_DECODER = 5, 3
N_LAYERS = N_ENCODER + N_DECODER
PLANTED = {
    "knowledge": (0, 5),
    "retrieval": (2, 3, 5),
    "reasoning": (2, 3, 4, 5),
    "coherence": (1, 6),
}
"""The layers that each capability needs; 7 is needed by none.

In the encoder the answer comes about at the last word, by the layers that have it in the decoder
organism; the first layer of the decoder fetches it. Brackets find their places in the encoder, and
another layer of the decoder takes them one by one.
"""

FORMS = (
    Form(
        "knowledge",
        PLANTED["knowledge"],
        {"encoded": 0, "answer": 5},
        facts,
        rows=40,
        n_asked=2,
    ),
    Form(
        "retrieval", PLANTED["retrieval"], {"encoded": 3, "answer": 5}, lookup, rows=32, n_asked=1
    ),
    Form(
        "reasoning",
        PLANTED["reasoning"],
        {"middle": 3, "encoded": 4, "answer": 5},
        two_hop,
        rows=40,
        n_asked=1,
    ),
    Form("coherence", PLANTED["coherence"], {"answer": 6}, brackets, rows=64, n_asked=1),
)
