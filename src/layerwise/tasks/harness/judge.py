"""The harness's own verdicts about written answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layerwise.tasks.items import Item

from .quiet import quiet


@dataclass(frozen=True)
class HarnessJudge:
    """Says whether a text is right, by a task's own filters and metric.

    Attributes:
        theirs: the harness's task.
        documents: its documents by item id.
        filter: the name of its filter.
        metric: the name of its metric, which is 1 for a right answer.
    """

    theirs: Any = field(repr=False)
    documents: Mapping[str, Any] = field(repr=False)
    filter: str
    metric: str

    def __call__(self, item: Item, text: str) -> tuple[bool, str | None]:
        """Whether a text is right, and the answer that was taken from it."""
        from lm_eval.api.instance import Instance

        # The control that asks another item's question names it behind the item's own id.
        document = self.documents[item.id.partition(" asked ")[0]]
        instance = Instance("generate_until", document, ("", {}), 0)
        instance.resps = [text] * (self.theirs.config.repeats or 1)
        (pipeline,) = [one for one in self.theirs._filters if one.name == self.filter]
        with quiet():
            pipeline.apply([instance])
            taken = instance.filtered_resps[self.filter]
            value = self.theirs.process_results(document, [taken])[self.metric]
        return bool(value == 1), taken if isinstance(taken, str) else repr(taken)
