"""The pieces that an ablation is cut into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerwise.presentation.wording import doing, joined, writes
from layerwise.tasks import Task
from layerwise.tasks.items import Item

from .spec import AblationSpec


@dataclass(frozen=True)
class Piece:
    """Work that is finished and saved together.

    Attributes:
        task: the task.
        items: some of its items.
        protocols: the protocols under which they are asked.
        stage: ``intact``, or ``swept`` for the intact model and every change.
        analysis: what asks for it.
        examples: which draw of its few-shot examples the task has; None if there is but one.
    """

    task: Task
    items: tuple[Item, ...]
    protocols: tuple[str, ...]
    stage: str
    analysis: str
    examples: int | None = None

    @property
    def name(self) -> str:
        """Unique within a run."""
        whose = "" if self.analysis == "ablation" else f"{self.analysis}, "
        asked = f", examples {self.examples}" if self.examples else ""
        return f"{whose}{self.stage} {self.task.name} {self.items[0].id}{asked}"

    def doing(self, changes: Sequence[AblationSpec]) -> str:
        """``"skipping layers: facts, chooses and writes"``: what is done while it is made."""
        what = "asking the model"
        for change in changes[:1] if self.stage != "intact" else ():
            what = doing(change.kind, change.site, "heads" if change.heads else "layers")
        return f"{what}: {self.task.name}, {joined(map(writes, self.protocols))}"
