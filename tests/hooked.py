"""``HookedTransformer`` for tests: where the installed TransformerLens has none, they are skipped.

A test that makes one is skipped when it does, with the reason; one that asks ``load_model`` for
TransformerLens's backend has the marker ``hooked_transformer``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from layerwise.models.libraries.hooked import HookedTransformer as HookedTransformer
from layerwise.models.libraries.hooked import has_hooked_transformer

REASON = "needs HookedTransformer: pip install 'transformer-lens<4'"

if TYPE_CHECKING or has_hooked_transformer():
    from transformer_lens import HookedTransformerConfig as HookedTransformerConfig
else:

    def HookedTransformerConfig(*args: Any, **named: Any) -> None:
        """Every model that a test makes by hand begins with one."""
        pytest.skip(REASON)
