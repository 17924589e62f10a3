"""Types and bounds of the fields of a user's task file, before the harness works with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerwise.errors import UserError, short_repr
from layerwise.tasks._lines import is_whole

from .config_files import Function

_TEXT, _NUMBER, _FLAG, _LIST, _MAPPING = str, int, bool, list, dict
_WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false",
    list: "a list", dict: "a mapping", Function: "a function",
}  # fmt: skip
_TEMPLATE = (_TEXT, Function)
_FORMS: dict[str, tuple[type, ...]] = {
    "doc_to_text": (*_TEMPLATE, _NUMBER),
    "doc_to_target": (*_TEMPLATE, _NUMBER, _LIST),
    "doc_to_choice": (*_TEMPLATE, _LIST, _MAPPING),
    "process_docs": (Function,),
    "target_delimiter": (_TEXT,),
    "fewshot_delimiter": (_TEXT,),
    "gen_prefix": (_TEXT,),
}
_TASK = _FORMS | {
    "task": (_TEXT,),
    "task_alias": (_TEXT,),
    "tag": (_TEXT, _LIST),
    "custom_dataset": (Function,),
    "dataset_path": (_TEXT,),
    "dataset_name": (_TEXT,),
    "dataset_kwargs": (_MAPPING,),
    "training_split": (_TEXT,),
    "validation_split": (_TEXT,),
    "test_split": (_TEXT,),
    "fewshot_split": (_TEXT,),
    "doc_to_image": (*_TEMPLATE, _LIST),
    "doc_to_audio": (*_TEMPLATE, _LIST),
    "unsafe_code": (_FLAG,),
    "process_results": _TEMPLATE,
    "description": (_TEXT,),
    "fewshot_config": (_MAPPING,),
    "num_fewshot": (_NUMBER,),
    "metric_list": (_LIST,),
    "output_type": (_TEXT,),
    "generation_kwargs": (_MAPPING,),
    "repeats": (_NUMBER,),
    "filter_list": (_LIST,),
    "should_decontaminate": (_FLAG,),
    "doc_to_decontamination_query": _TEMPLATE,
}
_FEWSHOT = _FORMS | {
    "sampler": _TEMPLATE,
    "split": (_TEXT,),
    "fewshot_indices": (_LIST,),
    "samples": (_LIST, Function),
}
_GENERATION = {
    "until": (_TEXT, _LIST),
    "do_sample": (_FLAG,),
    "temperature": (_NUMBER, float),
    "max_gen_toks": (_NUMBER,),
    "max_new_tokens": (_NUMBER,),
}
_METRIC = {"metric": _TEMPLATE, "aggregation": _TEMPLATE, "hf_evaluate": (_FLAG,)}
_FILTER = {"name": (_TEXT,), "filter": (_LIST,)}
_STEP = {"function": _TEMPLATE}
_RANGES = {
    "num_fewshot": (0, 1000),
    "repeats": (1, 1000),
    "max_gen_toks": (1, 1_000_000),
    "max_new_tokens": (1, 1_000_000),
}


def check_fields(config: Mapping[str, Any], name: str) -> None:
    """Refuse a task whose fields have other types than the harness reads, or absurd numbers."""
    _refuse_broken_texts(config, name)
    _check(config, _TASK, "", name)
    _check(config.get("fewshot_config") or {}, _FEWSHOT, "fewshot_config.", name)
    settings = config.get("generation_kwargs") or {}
    _check(settings, _GENERATION, "generation_kwargs.", name)
    until = settings.get("until")
    for one in until if isinstance(until, list) else ():
        _check({"until": one}, {"until": (_TEXT,)}, "generation_kwargs.", name)
    for metric in config.get("metric_list") or ():
        _check_entry(metric, _METRIC, "metric_list", name)
    for pipeline in config.get("filter_list") or ():
        _check_entry(pipeline, _FILTER, "filter_list", name)
        for step in pipeline["filter"]:
            _check_entry(step, _STEP, "filter_list", name)


def _check_entry(entry: Any, known: Mapping[str, tuple[type, ...]], field: str, name: str) -> None:
    """Check an entry of a list: a mapping, with its first fields."""
    first = [key for key in known if key not in ("aggregation", "hf_evaluate")]
    whole = isinstance(entry, dict) and all(entry.get(key) is not None for key in first)
    if not whole or not all(isinstance(key, str) for key in entry):
        raise _unfit(field, entry, f"a list of mappings with {' and '.join(first)}", name)
    _check(entry, known, f"{field}.", name)


def _check(
    fields: Mapping[str, Any], known: Mapping[str, tuple[type, ...]], prefix: str, name: str
) -> None:
    for field, value in fields.items():
        if value is None or field not in known:
            continue
        kinds = known[field]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(_WORDS[kind] for kind in kinds)
            raise _unfit(f"{prefix}{field}", value, expected, name)
        if field in _RANGES and not _RANGES[field][0] <= value <= _RANGES[field][1]:
            low, high = _RANGES[field]
            expected = f"a whole number from {low:,} to {high:,}"
            raise _unfit(f"{prefix}{field}", value, expected, name)


def _unfit(field: str, value: Any, expected: str, name: str) -> UserError:
    return UserError(
        f"Field {field!r} of task {name!r} is {short_repr(value)}; expected {expected}; "
        f"correct the "
        "task's file."
    )


def _refuse_broken_texts(value: Any, name: str) -> None:
    """Refuse texts that no table or page can hold."""
    if isinstance(value, str) and not is_whole(value):
        raise UserError(
            f"Task {name!r} has the text {short_repr(value)} with a null or half a "
            f"character; expected "
            "whole characters; correct the task's file."
        )
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    for part in parts if isinstance(value, dict | list) else ():
        _refuse_broken_texts(part, name)
