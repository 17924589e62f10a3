"""Plan of a trained decoder: the layers that are planted, and its training texts.

A form of text always runs the layers that it is to need, while each other layer is skipped at
random, so that it cannot become necessary; and what it asks is read after the last of these
layers, so that it must be known there. Forms are in ``training_forms``.
"""

from __future__ import annotations

from .training_forms import Form, brackets, facts, lookup, two_hop

N_LAYERS = 8
PLANTED = {"knowledge": (0,), "retrieval": (2, 3), "reasoning": (2, 3, 4), "coherence": (5, 6)}
"""The layers that each capability needs; 1 and 7 are needed by none."""

FORMS = (
    Form("knowledge", PLANTED["knowledge"], {"answer": 0}, facts, rows=8, n_asked=8),
    Form("retrieval", PLANTED["retrieval"], {"answer": 3}, lookup, rows=12, n_asked=5),
    Form(
        "reasoning", PLANTED["reasoning"], {"middle": 3, "answer": 4}, two_hop, rows=16, n_asked=5
    ),
    Form("coherence", PLANTED["coherence"], {"answer": 6}, brackets, rows=12, n_asked=2),
)
