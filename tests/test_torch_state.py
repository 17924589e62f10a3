"""Settings of a user in torch change no number; what cannot be computed gets a sentence."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import torch

import layerwise as lw
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.errors import UserError
from layerwise.sweep import LogLikelihood, intact, site_noise, sweep
from tests.analysis import word_task
from tests.cases import few_by_day
from tests.models.tiny import tiny_model, tiny_tokenizer
from tests.sweep.models import new_model, random_model
from tests.test_patching import pair_task


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "another default device": functools.partial(torch.device, "meta"),
    "another default number format": functools.partial(default_dtype, torch.float64),
}


def tables(model: Any) -> list[pd.DataFrame]:
    """Of analyses by the engine, with drawn noise, by hooks, and by gradients."""
    quiet: Any = {"limit": 1, "progress": False}
    pairs = pairs_of(model)
    noise = lw.ablate(model, word_task(), "generate", kind="noise", layers=[1], **quiet)
    estimated = lw.attribute_patches(model, pairs, sites=["resid_pre"], **quiet)
    drawn = site_noise(model, [(1, 2, 3)], ["z"], seed=0)["z", 1].flatten(1)
    return [noise.to_pandas(), estimated.to_pandas(), pd.DataFrame(drawn.tolist())]


pairs_of = functools.cache(pair_task)


@functools.cache
def plain_tables() -> list[pd.DataFrame]:
    return tables(tiny_model("llama", seed=1))


@pytest.mark.parametrize(
    "state", few_by_day(STATES, "inference mode", "another default number format")
)
def test_what_is_set_in_torch_changes_no_number(state):
    expected = plain_tables()
    with STATES[state]():
        found = tables(tiny_model("llama", seed=1))
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.long
def test_a_chat_template_that_fails_gets_a_sentence(monkeypatch):
    model = tiny_model("llama", seed=1)
    tokenizer = lw.models.original_tokenizer(model)
    broken = "{{ raise_exception('a system turn must come first') }}"
    monkeypatch.setattr(tokenizer, "chat_template", broken)
    with pytest.raises(UserError, match=r"chat template .* fails .*a system turn must come first"):
        lw.ablate(model, word_task(), "continuation", limit=1, chat=True, progress=False)
    monkeypatch.setattr(tokenizer, "chat_template", "{% if %}")
    with pytest.raises(UserError, match=r"chat template .* fails \(TemplateSyntaxError"):
        lw.ablate(model, word_task(), "continuation", limit=1, chat=True, progress=False)


def test_an_own_model_with_fewer_words_than_its_tokenizer_gets_a_sentence(monkeypatch):
    model: Any = new_model("gpt2")
    monkeypatch.setattr(model, "tokenizer", tiny_tokenizer())
    for use in (
        lambda: lw.ablate(model, word_task(), "continuation", limit=1, progress=False),
        lambda: lw.logit_lens(model, word_task(), "continuation", limit=1, progress=False),
        lambda: sweep(model, [intact()], [LogLikelihood((1, 50), (2,))]),
        lambda: sweep(model, [intact()], [LogLikelihood((1, 5), (-1,))], method="reference"),
        lambda: site_noise(model, [(1, 99)], ["z"], seed=0),
    ):
        with pytest.raises(UserError, match=r"There is no token .*vocabulary has 50 tokens"):
            use()


def test_an_own_model_without_a_tokenizer_gets_a_sentence():
    with pytest.raises(UserError, match=r"has no tokenizer: .*set_tokenizer"):
        lw.ablate(random_model("gpt2"), word_task(), "continuation", progress=False)
    with pytest.raises(UserError, match="has no tokenizer"):
        lw.head_scores(random_model("gpt2"), progress=False)


def test_an_own_model_without_values_gets_a_sentence(monkeypatch):
    model: Any = new_model("gpt2").to("meta")
    monkeypatch.setattr(model, "tokenizer", tiny_tokenizer())
    for use in (
        lambda: lw.ablate(model, word_task(), "continuation", progress=False),
        lambda: lw.head_scores(model, progress=False),
    ):
        with pytest.raises(UserError, match="device 'meta', where they have no values"):
            use()


def test_every_analysis_refuses_what_the_engine_would_not_see_but_for_the_reference(tmp_path):
    model: Any = copy.deepcopy(tiny_model("llama", seed=1))
    model.blocks[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    quiet: Any = {"limit": 2, "progress": False}
    task = word_task()
    pairs = pairs_of(tiny_model("llama", seed=1))
    uses = {
        "ablate": lambda: lw.ablate(model, task, **quiet),
        "decide": lambda: lw.decide(model, task, **quiet),
        "logit_lens": lambda: lw.logit_lens(model, task, **quiet),
        "train_lens": lambda: train_lens(model, "arithmetic", progress=False),
        "early_exit": lambda: lw.early_exit(model, task, **quiet),
        "attribution": lambda: lw.attribution(model, task, **quiet),
        "similarity": lambda: lw.similarity(model, task, **quiet),
        "interactions": lambda: lw.interactions(model, task, **quiet),
        "transplant": lambda: lw.transplant(model, tiny_model("llama", seed=1), task, **quiet),
        "distill": lambda: lw.distill(
            model, tiny_model("llama", seed=1), task, out=tmp_path / "out", **quiet
        ),
        "removal_order": lambda: lw.removal_order(model, task, n_removed=1, **quiet),
        "patch_activations": lambda: lw.patch_activations(model, pairs, **quiet),
        "patch_paths": lambda: lw.patch_paths(model, pairs, **quiet),
        "attribute_patches": lambda: lw.attribute_patches(model, pairs, **quiet),
        "head_scores": lambda: lw.head_scores(model, progress=False),
        "head_sets": lambda: lw.head_sets(model, task, **quiet),
        "profile": lambda: lw.profile(model, task, **quiet),
    }
    for use in uses.values():
        with pytest.raises(UserError, match=r"blocks.1 of the model has hooks of torch"):
            use()
    found = lw.ablate(
        model, task, "continuation", layers=[0], limit=1, method="reference", progress=False
    ).to_pandas()
    item = task.items[0]
    tokenizer = lw.models.original_tokenizer(model)
    prompt = tokenizer(f"Question: {item.question}\nAnswer:").input_ids
    said = tokenizer(f" {item.answer}").input_ids
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *said[:-1]]]))[0, len(prompt) - 1 :]
    rows = logits.double().log_softmax(-1)
    expected = sum(float(row[token]) for row, token in zip(rows, said, strict=True))
    intact = found.loc[found["kind"] == "intact", "gold_logprob"]
    assert float(intact.iloc[0]) == pytest.approx(expected, abs=1e-4)
