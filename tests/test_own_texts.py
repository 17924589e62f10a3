"""Texts that a student writes itself: several at a time as one by one, and how likely they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, StoppingCriteriaList

from layerwise.analyses.distillation.training.examples import Example
from layerwise.analyses.distillation.training.student import Student
from layerwise.models import load_model, original_tokenizer
from layerwise.models.instance.kinds import Model
from layerwise.models.own_files import model_folder
from tests.models.seq2seq.tiny import tiny_folder
from tests.models.tiny import tiny_model

MEMORY = 2**28
MODELS = {
    **{name: lambda name=name: tiny_model(name) for name in ("llama", "gpt2", "bloom")},
    **{name: lambda name=name: load_model(tiny_folder(name)) for name in ("t5", "bart")},
}


def make_student(model: Model) -> tuple[Student, Any]:
    return Student.from_model(model, model_folder(model), None, None, 0), original_tokenizer(model)


def examples(n_tokens: int = 280) -> list[Example]:
    """Prompts of several lengths, some of the same, answered with one to twelve tokens."""
    rng = np.random.default_rng(0)
    sizes = ((5, 12), (9, 6), (3, 12), (8, 1), (30, 12), (5, 7), (31, 9), (6, 12))
    made = [
        Example(tuple(rng.integers(3, n_tokens, n + 2).tolist()), n, n, most) for n, most in sizes
    ]
    return [*made[:-1], made[-1]._replace(stop=("e", "a", "t"))]


def one_at_a_time(student: Student, example: Example, tokenizer: Any, seed: int) -> list[int]:
    """Samples of transformers for one text at a time, without padding, with its own generator."""
    given = torch.tensor([example.tokens[: example.n_given]])
    inputs: dict[str, Any] = {"input_ids": given, "attention_mask": torch.ones_like(given)}
    first = given.shape[1]
    if student.prefix is not None:
        first = len(student.prefix)
        inputs["decoder_input_ids"] = torch.tensor([student.prefix])

    def ends(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        text = tokenizer.decode(tokens[0, first:])
        return torch.tensor([any(stop in text for stop in example.stop)])

    how = GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=example.most,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrote = student.original.generate(
            **inputs, generation_config=how, stopping_criteria=StoppingCriteriaList([ends])
        )
    return wrote[0, first:].tolist()


@pytest.mark.long(but=["t5"])
@pytest.mark.parametrize("name", MODELS)
def test_texts_of_a_batch_are_those_that_are_written_one_at_a_time(name):
    """Also where memory has room for three at once."""
    student, tokenizer = make_student(MODELS[name]())
    asked = examples(48 if student.prefix else 280)
    seeds = list(range(10, 10 + len(asked)))
    texts = student.sample(asked, tokenizer, seeds, MEMORY)
    three = 3 * 8 * 4 * student.original.config.vocab_size * 33
    assert student.sample(asked, tokenizer, seeds, three) == texts
    expected = [
        one_at_a_time(student, *each) for each in zip(asked, [tokenizer] * 8, seeds, strict=True)
    ]
    assert [list(text.targets) for text in texts] == expected
    assert [text.prompt for text in texts] == [one.tokens[: one.n_given] for one in asked]
    assert len({len(said) for said in expected}) > 3


def test_a_tokens_end_within_a_prompt_does_not_end_its_text():
    student, tokenizer = make_student(tiny_model("llama"))
    end = tokenizer.eos_token_id
    asked = [Example((5, 9, 30), 3, 3, 8), Example((5, 9, 30, end, 7, 8), 6, 6, 8)]
    texts = student.sample(asked, tokenizer, [1, 2], MEMORY)
    alone = [student.sample([one], tokenizer, [seed], MEMORY)
             for seed, one in enumerate(asked, 1)]  # fmt: skip
    assert [texts[:1], texts[1:]] == alone
    assert len(texts[1].targets) > 1


def test_what_the_files_say_of_writing_does_not_change_what_is_sampled():
    student, tokenizer = make_student(tiny_model("llama"))
    asked, seeds = examples()[:4], [1, 2, 3, 4]
    before = student.sample(asked, tokenizer, seeds, MEMORY)
    own = student.original.generation_config
    own.repetition_penalty, own.temperature = 1.8, 0.2
    try:
        assert student.sample(asked, tokenizer, seeds, MEMORY) == before
        assert student.original.generation_config is own
    finally:
        own.repetition_penalty = own.temperature = None


def test_what_a_student_writes_itself_is_drawn_by_its_seed_and_ends_where_texts_end():
    student, tokenizer = make_student(tiny_model("llama"))
    example = Example((5, 9, 30, 7, 8), 2, 3, 12)
    state = torch.get_rng_state()
    texts = student.sample([example] * 3, tokenizer, [1, 1, 2], MEMORY)
    assert torch.equal(torch.get_rng_state(), state)
    assert texts[0] == texts[1] != texts[2]
    for text in texts:
        assert text.tokens[:3] == (5, 9, 30)
        assert text.n_prompt == 3
        assert 1 <= len(text.targets) <= 12
    every = tuple({tokenizer.decode([token]) for token in range(300)})
    (text,) = student.sample([example._replace(stop=every)], tokenizer, [1], MEMORY)
    assert len(text.targets) == 1


def test_what_a_student_writes_follows_its_own_distribution():
    """First tokens of many draws: those that the model finds most likely, as often as it does."""
    from scipy.stats import chisquare

    student, tokenizer = make_student(tiny_model("llama"))
    example = Example((5, 9, 30), 3, 3, 1)
    with torch.no_grad():
        chances = student.original(torch.tensor([[5, 9, 30]])).logits[0, -1].softmax(-1)
    seeds = np.random.default_rng(0).integers(2**62, size=300).tolist()
    drawn = [text.targets[0] for text in student.sample([example] * 300, tokenizer, seeds, MEMORY)]
    likely = chances.argsort(descending=True)[:20].tolist()
    seen = sum(token in likely for token in drawn)
    expected = 300 * float(chances[likely].sum())
    assert chisquare([seen, 300 - seen], [expected, 300 - expected]).pvalue > 1e-3
