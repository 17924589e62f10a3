"""TransformerLens's own models, which some benchmarks compare with, or a sentence without them."""

from __future__ import annotations

import sys

try:
    from transformer_lens import HookedTransformer as HookedTransformer
    from transformer_lens import HookedTransformerConfig as HookedTransformerConfig
    from transformer_lens import TransformerLensKeyValueCache as TransformerLensKeyValueCache
    from transformer_lens import patching as patching
except ImportError:
    sys.exit(
        "This benchmark compares with TransformerLens's HookedTransformer, which releases from 4.0 "
        "on have not: expected a release below; pip install 'transformer-lens<4' and run it again."
    )
