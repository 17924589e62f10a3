"""How another process loads the very model that this one has: by its name, never its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerwise.errors import UserError, shown
from layerwise.models.instance.facts import current_weights_hash, origin_of
from layerwise.models.instance.kinds import Model
from layerwise.models.weights.offload import blocks_on_disk


def loading_of(model: Model) -> dict[str, str | None]:
    """Arguments of ``load_model`` that give this model, without the device."""
    origin = origin_of(model)
    if origin is None or origin.facts.source == "user":
        raise UserError(
            f"The model {shown(str(model.cfg.model_name))} was passed as an object, and Ray's "
            "workers load models by name; expected one from layerwise.load_model(name). Save it "
            "as a folder in hub format and load it by that path, or leave the executor out."
        )
    facts = origin.facts
    named = facts.source in ("folder", "gguf")
    return {
        "name": str(Path(facts.name).expanduser().resolve()) if named else facts.name,
        "dtype": str(model.W_E.dtype).removeprefix("torch."),
        "backend": facts.backend,
        "offload": None if blocks_on_disk(model) is None else "disk",
    }


def described(model: Model) -> dict[str, Any]:
    """``loading_of`` a model, and the ``hash`` that its weights have."""
    return {**loading_of(model), "hash": current_weights_hash(model)}
