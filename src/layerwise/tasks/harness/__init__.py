"""Tasks of lm-evaluation-harness: ``lm-eval:arc_easy``, ``lm-eval:./mine.yaml``, a group."""

from .source import expand as expand
from .source import from_lm_eval as from_lm_eval
from .source import load as load
from .source import matches as matches
from .source import refuse_unknown as refuse_unknown
