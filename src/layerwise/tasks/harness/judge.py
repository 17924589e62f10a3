"""The harness's own verdicts about written answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from layerwise.errors import UserError
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
        loaded_by: what loads it elsewhere, with its arguments; None of a task object's judge.
    """

    theirs: Any = field(repr=False)
    documents: Mapping[str, Any] = field(repr=False)
    filter: str
    metric: str
    loaded_by: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the task's name: functions of a task cannot be pickled, and data are large."""
        if self.loaded_by is None:
            raise UserError(
                f"The task object {self.theirs.task_name!r} of lm-evaluation-harness cannot go to "
                "other processes; expected a task by name, such as lm-eval:mine.yaml; name it, or "
                "run without Ray."
            )
        return self.loaded_by

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
