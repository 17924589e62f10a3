"""Small wired encoder-decoders and random layouts, for tests that know the answer.

Tasks are those of ``tests.planted``; what each method must find in the models is told by
``analyses.validity.wired_truth_seq2seq``.
"""

from __future__ import annotations

from functools import cache

import torch
from hypothesis import strategies as st

from layerwise.models.organisms.layout import Spot
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.organisms.wired_seq2seq.model import wired_seq2seq_model
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.tasks import Item, Task
from tests.planted import N_CTX, SMALL


@cache
@torch.inference_mode(False)  # whoever asks first: others take gradients
def small_seq2seq(layout: WiredSeq2SeqLayout, seed: int = 0) -> Seq2SeqModel:
    """A wired encoder-decoder of the small language; do not change its weights."""
    return wired_seq2seq_model(layout, SMALL, seed=seed, n_ctx=N_CTX)


@st.composite
def seq2seq_layouts(draw: st.DrawFn) -> WiredSeq2SeqLayout:
    """Any order that the mechanisms can be in, with idle layers and heads between them."""
    n_encoder, n_decoder = draw(st.integers(4, 6)), draw(st.integers(3, 5))
    heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    first = sorted(draw(st.permutations(range(n_encoder)))[:4])
    facts = first.pop(draw(st.integers(0, 3)))
    later = draw(st.permutations(range(n_encoder, n_encoder + n_decoder)))
    begin, copy, say = sorted(later[:3])
    places = [*first, facts, begin, copy]
    drawn = [draw(st.integers(0, heads[place >= n_encoder] - 1)) for place in places]
    names = ("previous", "look_up", "second_hop", "facts", "begin", "copy")
    spots = dict(zip(names, map(Spot, places, drawn), strict=True))
    return WiredSeq2SeqLayout(n_encoder, n_decoder, *heads, **spots, say=say)


def prompt(item: Item) -> str:
    """Prompt that the encoder reads."""
    return f"{item.context} {item.question}"


def suite_tokens(model: Seq2SeqModel, task: Task) -> torch.Tensor:
    """The prompts of a suite, which are of one length."""
    return torch.cat([model.to_tokens(prompt(item)) for item in task.items])


def answer_ids(model: Seq2SeqModel, task: Task) -> torch.Tensor:
    """The answers, one token each, in one column."""
    assert model.tokenizer is not None
    ids = model.tokenizer.convert_tokens_to_ids([item.answer for item in task.items])
    return torch.tensor(ids)[:, None]
