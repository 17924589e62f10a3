"""Tasks and their scoring: items, suites, protocols, and where tasks come from.

Nothing here knows about layers or runs a model; ``layerwise.sweep`` answers the requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from layerwise.tasks._encoding import Tokenizer as Tokenizer
from layerwise.tasks._requests import PROTOCOLS as PROTOCOLS
from layerwise.tasks._requests import TaskRequest as TaskRequest
from layerwise.tasks.harness import from_lm_eval as from_lm_eval
from layerwise.tasks.items import CAPABILITIES as CAPABILITIES
from layerwise.tasks.items import Capability as Capability
from layerwise.tasks.items import Corruption as Corruption
from layerwise.tasks.items import Item as Item
from layerwise.tasks.other_questions import with_other_questions as with_other_questions
from layerwise.tasks.pairs import PatchingPrompts as PatchingPrompts
from layerwise.tasks.pairs import patching_prompts as patching_prompts
from layerwise.tasks.pairs import shared_first_tokens as shared_first_tokens
from layerwise.tasks.protocols import build_requests as build_requests
from layerwise.tasks.protocols import with_room as with_room
from layerwise.tasks.registry import expand_task_names as expand_task_names
from layerwise.tasks.registry import languages as languages
from layerwise.tasks.registry import load_task as load_task
from layerwise.tasks.registry import register_source as register_source
from layerwise.tasks.registry import register_suite as register_suite
from layerwise.tasks.registry import task_names as task_names
from layerwise.tasks.scoring import Score as Score
from layerwise.tasks.scoring import score as score
from layerwise.tasks.task import GenerateSpec as GenerateSpec
from layerwise.tasks.task import Task as Task
from layerwise.tasks.task import Template as Template

if TYPE_CHECKING:
    from layerwise.tasks.blind import QuestionOnlyBaseline as QuestionOnlyBaseline
    from layerwise.tasks.blind import guesser_accuracies as guesser_accuracies
    from layerwise.tasks.blind import question_only_baseline as question_only_baseline

# Listing tasks must not wait for pandas.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "blind": ["QuestionOnlyBaseline", "guesser_accuracies", "question_only_baseline"]
    },
)
