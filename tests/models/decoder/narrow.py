"""Distances in docs/models.md of narrow formats: ``python -m tests.models.decoder.narrow``.

Each is a random model of two layers. What is told is how far log-probabilities are from those of
the original in float32, at most: of the original in the narrow format, and of a ``DecoderModel``.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from layerwise.models.decoder.load import hooked_decoder
from tests.models.tiny import scramble

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "GPTJ": (500, {"n_embd": 64, "n_layer": 2, "n_head": 8, "rotary_dim": 4}),
    "GPTNeo": (500, {
        "hidden_size": 64, "num_layers": 2, "num_heads": 8, "window_size": 100,
        "attention_types": [[["global", "local"], 1]]}),
    "Bloom": (2000, {"hidden_size": 64, "n_layer": 2, "n_head": 8}),
    "Mpt": (2000, {"d_model": 64, "n_layers": 2, "n_heads": 8, "max_seq_len": 2048}),
}  # fmt: skip
"""Of each family how long the text is, and the configuration."""


@torch.inference_mode()
def distances(family: str, dtype: torch.dtype) -> tuple[float, float]:
    """How far the original in a format, and the hooked model in it, are from float32, in nats."""
    length, fields = CASES[family]
    config = getattr(transformers, f"{family}Config")(vocab_size=50, **fields)
    kind = getattr(transformers, f"{family}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = kind._from_config(config, attn_implementation="eager").eval()
        tokens = torch.randint(2, 50, (1, length))
    scramble(original, 1)
    exact = original(tokens).logits.log_softmax(-1)
    original.to(dtype)
    theirs = original(tokens).logits.float().log_softmax(-1)
    ours = hooked_decoder(original, None, family)(tokens).float().log_softmax(-1)
    return float((theirs - exact).abs().max()), float((ours - exact).abs().max())


if __name__ == "__main__":
    for family, (length, _) in CASES.items():
        theirs, ours = distances(family, torch.bfloat16)
        print(f"{family}, {length} tokens: original {theirs:.2g}, over its modules {ours:.2g} nats")
