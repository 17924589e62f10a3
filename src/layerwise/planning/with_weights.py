"""The models of a plan with their weights, which are read to find out how fast they are here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from layerwise.models import load_model
from layerwise.models.facts import origin_of
from layerwise.models.folder import has_weights
from layerwise.models.footprint import weight_bytes
from layerwise.models.kinds import Model
from layerwise.models.meta_model import is_meta_model
from layerwise.runs.setup import Setup
from layerwise.sweep.memory import free_memory


@dataclass
class WithWeights:
    """The models of a plan, each of which is loaded once.

    Attributes:
        untimed: whether none is to be loaded.
        backend: what is to run them.
        loaded: by the id of a model or outline the model itself.
    """

    untimed: bool
    backend: str = "auto"
    loaded: dict[int, Model] = field(default_factory=dict)

    def why_not(self, model: Model) -> str | None:
        """Load a model; in words why it cannot be had here."""
        if self.untimed:
            return "it was not asked for"
        if not is_meta_model(model):
            self.loaded[id(model)] = model
        if id(model) in self.loaded:
            return None
        origin = origin_of(model)
        if origin is None or origin.folder is None or not has_weights(origin.folder):
            return "the model's weights are not on this machine"
        if weight_bytes(model) > free_memory("cpu") // 2:
            return "the model's weights, loaded and compared, do not fit into this machine's memory"
        facts = origin.facts
        self.loaded[id(model)] = load_model(
            facts.name, dtype=facts.dtype, device=facts.device, backend=self.backend
        )
        return None

    def model(self, model: Model) -> Model:
        """The model of an outline, which was loaded."""
        return self.loaded[id(model)]

    def setup(self, setup: Setup) -> Setup:
        """A setup of an outline with the model itself."""
        return replace(setup, model=self.model(setup.model))
