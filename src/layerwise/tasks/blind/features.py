"""Numbers that describe an option: its length, value, place in the alphabet, likeness to others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import chain, pairwise

import numpy as np
from jaxtyping import Float

from layerwise.models.libraries.untrusted_tokenizer import try_texts
from layerwise.tasks._encoding import Tokenizer

from .options import TaskOptions

Feature = Float[np.ndarray, "items options"]
_NUMBER = re.compile(r"\s*[$€£]?\s*([-\u2212]?\d+(?:,\d{3})*(?:\.\d+)?)\s*%?\s*")


def option_features(options: TaskOptions, tokenizer: Tokenizer | None) -> Mapping[str, Feature]:
    """Every feature that tells at least some of the options apart, by name."""
    times = Counter(text for row in options.texts for text in row)
    alphabet = {text: place for place, text in enumerate(sorted(times, key=str.casefold))}
    features: dict[str, Feature] = {
        "characters": _measure_options(options, len),
        "words": _measure_options(options, lambda text: len(text.split())),
        "alphabetical order": _measure_options(options, lambda text: alphabet[text]),
        "number": _option_values(options),
        "characters shared with the other options": _mean_overlap(options, list),
        "words shared with the other options": _mean_overlap(options, str.split),
        "word pairs shared with the other options": _mean_overlap(options, _word_pairs),
        "times offered in the task": _measure_options(options, lambda text: times[text]),
    }
    if tokenizer is not None:
        try_texts(tokenizer, *times)
        features["tokens"] = _measure_options(
            options, lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
        )
    for middle, of in (("mean", np.nanmean), ("median", np.nanmedian)):
        features[f"distance from the options' {middle}"] = _distance_from_middle(
            features["number"], of
        )
    return {name: feature for name, feature in features.items() if differs_within_items(feature)}


def mention_features(options: TaskOptions) -> Mapping[str, Feature]:
    """Place and number of each option's mentions in contexts that list two or more options."""
    names = ("first mention", "last mention", "times mentioned")
    features = {f"{name} in the context": np.full(options.offered.shape, np.nan) for name in names}
    first, last, times = features.values()
    for index, (context, texts) in enumerate(zip(options.contexts, options.texts, strict=True)):
        patterns = [rf"(?<!\w){re.escape(text)}(?!\w)" for text in texts]
        starts = [[m.start() for m in re.finditer(each, context or "")] for each in patterns]
        if sum(map(bool, starts)) >= 2:
            first[index, : len(texts)] = [places[0] if places else np.inf for places in starts]
            last[index, : len(texts)] = [places[-1] if places else np.inf for places in starts]
            times[index, : len(texts)] = list(map(len, starts))
    return {name: feature for name, feature in features.items() if differs_within_items(feature)}


def differs_within_items(feature: Feature) -> bool:
    """True if a feature differs between the options of any item."""
    low, high = np.fmin.reduce(feature, axis=1), np.fmax.reduce(feature, axis=1)
    return bool((low < high).any())


def _measure_options(options: TaskOptions, measure: Callable[[str], float]) -> Feature:
    known = {text: float(measure(text)) for text in {text for row in options.texts for text in row}}
    values = np.full(options.offered.shape, np.nan)
    values[options.offered] = [known[text] for row in options.texts for text in row]
    return values


def _option_values(options: TaskOptions) -> Feature:
    """Options' values where all of an item's options are numbers."""
    values = _measure_options(options, _parse_number)
    complete = (np.isfinite(values) | ~options.offered).all(axis=1)
    values[~complete] = np.nan
    return values


def _parse_number(text: str) -> float:
    match = _NUMBER.fullmatch(text)
    return float(match[1].replace(",", "").replace("\u2212", "-")) if match else np.nan


def _word_pairs(text: str) -> Iterable[tuple[str, str]]:
    return pairwise(text.split())


def _distance_from_middle(
    numbers: Feature, middle: Callable[..., Float[np.ndarray, "items 1"]]
) -> Feature:
    known = np.isfinite(numbers).any(axis=1)
    distances = np.full(numbers.shape, np.nan)
    if known.any():
        own = numbers[known]
        distances[known] = np.abs(own - middle(own, axis=1, keepdims=True))
    return distances


def _mean_overlap(options: TaskOptions, parts: Callable[[str], Iterable[Hashable]]) -> Feature:
    """The number of parts that an option shares with another one, on average."""
    values = np.full(options.offered.shape, np.nan)
    for index, row in enumerate(options.texts):
        numbered = [_enumerate_repeats(parts(text.casefold())) for text in row]
        times = Counter(chain.from_iterable(numbered))
        for place, own in enumerate(numbered):
            values[index, place] = sum(times[part] - 1 for part in own) / (len(row) - 1)
    return values


def _enumerate_repeats(parts: Iterable[Hashable]) -> list[tuple[Hashable, int]]:
    """Parts, each with its number among equal ones, so that none occurs twice."""
    times: Counter[Hashable] = Counter()
    numbered = []
    for part in parts:
        times[part] += 1
        numbered.append((part, times[part]))
    return numbered
