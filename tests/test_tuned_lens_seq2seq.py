"""The tuned lens of encoder-decoders: against plain hooked runs, in all families."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import layerwise as lw
from layerwise.analyses.emergence.api import emergence
from layerwise.analyses.shared.lens_names import UNTRANSLATED
from layerwise.analyses.shared.texts import Text, texts_of_file, texts_of_tasks
from layerwise.analyses.shared.translators import TunedLens
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.analyses.tuned_lens.training import (
    READS,
    LensTrainer,
    TextStreams,
    bytes_of_gradient,
    compare,
    draw_positions,
)
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.runs.setup import prepare
from layerwise.sweep.activations.streams import truncated_encoder
from layerwise.sweep.walk.readout import divergence, final_logits
from tests.analysis import word_task
from tests.cases import LONG, in_long_runs
from tests.models.seq2seq.tiny import CASES, tiny_seq2seq
from tests.sweep.strategies import tokens

pytestmark = pytest.mark.drawn

BUDGET = 2**26
TASK = word_task(4)
FAMILIES = ("t5", "flan-t5", "bart", "mbart", "marian", "pegasus")
WORDS = ("the", "capital", "of", "France", "is", "Paris", "and", "Rome", "a", "key", "door", "one")


def text_file(folder, n_texts: int = 40):
    rng = random.Random(0)
    path = folder / "some.txt"
    path.write_text("\n\n".join(" ".join(rng.choices(WORDS, k=24)) for _ in range(n_texts)))
    return path


def drawn_lens(model: Seq2SeqModel, scale: float, seed: int = 0) -> TunedLens:
    """Translators that nobody trained: identities, or anything."""
    generator = torch.Generator().manual_seed(seed)
    n, width = model.cfg.n_layers, model.cfg.d_model
    weight, bias = (
        scale * torch.randn(*shape, generator=generator)
        for shape in ((n, width, width), (n, width))
    )
    facts = {"model": "tiny", "model_hash": prepare(model, TASK, "continuation")
             .loaded.hash}  # fmt: skip
    return TunedLens(weight, bias, facts)


def hooked_logits(model: Seq2SeqModel, lens: TunedLens, text: Text, depth: int) -> torch.Tensor:
    """Logits at all decoder positions: one plain run with hooks, the translator written out."""
    n_encoder, n = model.cfg.n_encoder_layers, text.n_prompt
    said = torch.tensor([[*model.prefix, *text.tokens[n:-1]]])
    given = torch.tensor([text.tokens[:n]])
    first = n_encoder * (depth >= n_encoder)
    embedding = f"{'decoder' if first else 'encoder'}.hook_embed"
    name = embedding if depth == first else model.hook_name(depth - 1, "hook_resid_post")
    held: list[torch.Tensor] = []

    def translated(x: torch.Tensor) -> torch.Tensor:
        assert lens.weight is not None
        rows = [
            x[0, i] + lens.weight[depth] @ x[0, i] + lens.bias[depth] for i in range(x.shape[1])
        ]
        return torch.stack(rows)[None]

    last = model.cfg.n_layers - 1 if first else n_encoder - 1
    hooks = [
        (name, lambda x, hook: held.append(x)),
        (model.hook_name(last, "hook_resid_post"), lambda x, hook: translated(held[0])),
    ]
    return model.run_with_hooks(given, said, fwd_hooks=hooks)[0]


@settings(max_examples=50 if LONG else 5, deadline=None)
@given(
    st.sampled_from(sorted(CASES)),
    st.lists(st.tuples(tokens(1, 6, 50), tokens(1, 5, 50)), min_size=1, max_size=3),
    st.integers(0, 99),
    st.sampled_from([2**14, 2**26]),
)
def test_each_depth_is_read_as_a_plain_hooked_run_reads_it(case, pairs, seed, budget):
    """Streams that are trained on, and read later, through translators of any kind."""
    model = tiny_seq2seq(case)
    lens = drawn_lens(model, 0.2, seed)
    texts = [Text((*given, *said), len(given)) for given, said in pairs]
    streams = TextStreams.from_texts(model, texts, np.random.default_rng(seed), budget)
    n_encoder, begin = model.cfg.n_encoder_layers, len(model.prefix)
    sides = [text.tokens[:-1] for text in texts], streams.positions, [t.n_prompt for t in texts]
    early = truncated_encoder(model, *sides, memory_budget=budget, translate=lens.translate)
    for depth in range(model.cfg.n_layers):
        found = torch.cat(
            [
                part.lens_logprobs(
                    depth, lens.translate(("resid_post", depth - 1), part.stream_at(depth))
                )
                for part in streams.parts(depth, budget)
            ]
        )
        expected = torch.cat(
            [
                hooked_logits(model, lens, text, depth)[
                    [pos - text.n_prompt + begin for pos in read]
                ]
                for text, read in zip(texts, streams.positions, strict=True)
            ]
        ).log_softmax(-1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        if depth < n_encoder:
            read = final_logits(model, early[depth]).log_softmax(-1)
            torch.testing.assert_close(read, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["t5", "bart"])
def test_tables_of_an_untrained_lens_are_those_without_it(case):
    model = tiny_seq2seq(case)
    options = {"sites": ("resid_pre", "resid_post"), "progress": False}
    lens = drawn_lens(model, 0.0)
    plain, tuned = (
        lw.logit_lens(model, TASK, "continuation", over="continuation", **options, **more).lens
        for more in ({}, {"lens": "tuned", "tuned": lens})
    )
    assert set(tuned["lens"]) == {"tuned", "tuned decoder"}
    named = tuned.assign(lens=tuned["lens"].map(UNTRANSLATED))
    exact = ["item", "lens", "site", "layer", "pos", "token", "rank", "final_rank"]
    pd.testing.assert_frame_equal(named[exact], plain[exact])
    for name in ("logprob", "entropy", "kl"):
        assert np.abs(named[name] - plain[name]).max() < 1e-4
    n_encoder, n_layers = model.cfg.n_encoder_layers, model.cfg.n_layers
    layers = tuned.groupby("lens")["layer"].agg(["min", "max"])
    assert layers.loc["tuned decoder"].tolist() == [-1, n_encoder - 1]
    assert layers.loc["tuned"].tolist() == [n_encoder - 1, n_layers - 1]


@pytest.mark.parametrize("case", ["t5", "bart"])
@pytest.mark.parametrize("budget", [1, BUDGET])
def test_gradients_are_those_of_a_plain_hooked_run(case, budget, monkeypatch):
    """One step of one depth of each stack, in parts and in one, against autograd through hooks."""
    model = tiny_seq2seq(case)
    texts = [Text((5, 6, 7, 8, 9, 10), 4), Text((11, 12, 13, 14), 2)]
    trainer = LensTrainer(model, texts, True, 1, 0.1, 0, BUDGET)
    trainer.memory_budget = budget
    monkeypatch.setattr(trainer.optimiser, "step", lambda: None)
    drawn = []
    original = TextStreams.from_texts
    monkeypatch.setattr(
        TextStreams,
        "from_texts",
        lambda *args: drawn.append(original(*args[:3], BUDGET)) or drawn[-1],
    )
    trainer.step()
    (streams,) = drawn
    begin, width = len(model.prefix), model.cfg.d_model
    for depth in (1, model.cfg.n_encoder_layers):
        shift = torch.zeros(width, requires_grad=True)
        matrix = torch.zeros(width, width, requires_grad=True)
        spread, mean = trainer.spread[depth], trainer.mean[depth]
        scaled = spread[:, None] * matrix / spread
        of_depth = (
            torch.zeros(model.cfg.n_layers, width, width),
            torch.zeros(model.cfg.n_layers, width),
        )
        for values, mine in zip(of_depth, (scaled, spread * shift - scaled @ mean), strict=True):
            values[depth] = mine
        lens = TunedLens(*of_depth, {})
        logits = [
            hooked_logits(model, lens, text, depth)[[pos - text.n_prompt + begin for pos in read]]
            for text, read in zip(streams.texts, streams.positions, strict=True)
        ]
        divergence(streams.final, torch.cat(logits).log_softmax(-1)).mean().backward()
        given = trainer.biases[depth].grad, trainer.weights[depth].grad
        assert given[0] is not None
        assert given[0].abs().max() > 1e-4
        for mine, expected in zip(given, (shift.grad, matrix.grad), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-3)
    assert all(p.grad is None for p in model.parameters())


def test_texts_are_read_out_together_as_far_as_memory_goes():
    model = tiny_seq2seq("t5")
    texts = [Text(tuple(range(5, 5 + n)), n - 3) for n in (9, 12, 6, 10)]
    streams = TextStreams.from_texts(model, texts, np.random.default_rng(0), BUDGET)
    whole = list(streams.parts(0, BUDGET))
    assert whole == [streams]
    assert list(streams.parts(model.cfg.n_encoder_layers, 1)) == [streams]
    most = bytes_of_gradient(model, texts[1])
    cut = [len(part.texts) for part in streams.parts(0, 2 * most)]
    assert cut == [2, 2]
    assert [len(part.texts) for part in streams.parts(0, 1)] == [1, 1, 1, 1]
    joined = torch.cat([part.final for part in streams.parts(0, 1)])
    torch.testing.assert_close(joined, streams.final)


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "kind"),
    [("t5", "full"), *in_long_runs(("bart", "bias"), ("marian", "full"))],
)
def test_training_lowers_the_divergence_on_held_out_texts(tmp_path, case, kind):
    model = tiny_seq2seq(case)
    trained = train_lens(
        model, TASK, text=text_file(tmp_path), steps=30, kind=kind, progress=False,
        out=tmp_path / "run", rate=0.03,
    )  # fmt: skip
    layers = trained.result.layers()
    n_encoder, n_layers = model.cfg.n_encoder_layers, model.cfg.n_layers
    assert layers["layer"].tolist() == list(range(-1, n_layers - 1))
    names = ["tuned decoder"] * n_encoder + ["tuned"] * (n_layers - n_encoder)
    assert layers["lens"].tolist() == names
    assert (layers["kl_tuned"] < layers["kl_logit"]).all()
    assert layers.groupby("lens")["lower"].any().all()
    assert all(p.grad is None for p in model.parameters())
    again, other = (
        lw.logit_lens(model, TASK, "continuation", lens="tuned", tuned=given, progress=False).lens
        for given in (trained.lens, tmp_path / "run")
    )
    pd.testing.assert_frame_equal(again, other)


def test_translators_that_only_do_harm_are_left_out_of_the_encoder():
    """After a step that is far too long, by what it does to the texts that it was taken on."""
    model = tiny_seq2seq("t5")
    texts = [Text(tuple(random.Random(i).choices(range(5, 60), k=9)), 5) for i in range(12)]
    trainer = LensTrainer(model, texts, True, 1, 30.0, 0, BUDGET)
    trainer.step()
    lens, n_encoder = trainer.make_lens({}), model.cfg.n_encoder_layers
    assert lens.weight is not None
    told = pd.DataFrame(compare(model, trainer._affine({}), texts, 0, BUDGET))
    means = told.groupby("layer")[["kl_logit", "kl_tuned"]].mean()
    nearer = (means["kl_tuned"] < means["kl_logit"]).tolist()
    assert 0 < sum(nearer[:n_encoder]) < n_encoder
    assert lens.bias.any(dim=1).tolist() == [*nearer[:n_encoder], *[True] * len(nearer[n_encoder:])]
    assert lens.weight.flatten(1).any(dim=1).tolist() == lens.bias.any(dim=1).tolist()


@pytest.mark.long
def test_prompts_go_to_the_encoder_and_right_answers_to_the_decoder():
    model = lw.load_model("wired-seq2seq")
    setup = prepare(model, ["wired-lookup", "wired-facts"], "continuation", limit=5)
    texts = texts_of_tasks(setup, 40)
    measured = {
        one.request.context
        for task in setup.tasks
        for item in task.items
        for one in setup.requests(task, item, "continuation")
    }
    every = [*texts.train, *texts.held_out]
    assert len(set(every)) == 40
    for text in every:
        prompt, answer = text.tokens[: text.n_prompt], text.tokens[text.n_prompt :]
        assert prompt not in measured
        assert prompt[0] == setup.tokenizer.bos_token_id
        assert len(answer) == 1


def test_texts_of_a_file_are_cut_in_the_middle(tmp_path):
    model = lw.load_model("organism-seq2seq")
    setup = prepare(model, "organism-lookup", "continuation")
    words = [word for word in sorted(setup.tokenizer.get_vocab()) if word.isalpha()][:40]
    rng = random.Random(1)
    lines = [rng.choices(words, k=length) for length in (20, 21, 1, *[12] * 12)]
    path = tmp_path / "some.txt"
    path.write_text("\n\n".join(map(" ".join, lines)))
    texts = texts_of_file(path, setup, 100)
    every = [*texts.train, *texts.held_out]
    assert len(every) == 14  # the one of a single word has no second half
    ids = setup.tokenizer
    halves = {
        (
            ids.decode(list(text.tokens[: text.n_prompt]), skip_special_tokens=True),
            ids.decode(list(text.tokens[text.n_prompt :])),
        )
        for text in every
    }
    middles = [(line, (len(line) + 1) // 2) for line in lines if len(line) > 1]
    assert halves == {(" ".join(line[:at]), " ".join(line[at:])) for line, at in middles}
    for text in every:
        given = ids.decode(list(text.tokens[: text.n_prompt]), skip_special_tokens=True)
        assert list(text.tokens[: text.n_prompt]) == ids(given).input_ids


def test_positions_are_those_where_what_is_said_is_predicted():
    rng = np.random.default_rng(0)
    for n_prompt, n_said in ((1, 1), (5, 1), (4, 3), (7, 60)):
        text = Text(tuple(range(n_prompt + n_said)), n_prompt)
        read = draw_positions(text, rng)
        assert read[0] == n_prompt - 1
        assert read[-1] < len(text.tokens) - 1
        assert len(read) == len(set(read)) == min(READS, n_said)


@pytest.mark.long
def test_emergence_and_the_page_take_a_tuned_lens_of_two_stacks(tmp_path):
    model = lw.load_model("wired-seq2seq")
    options = {"limit": 12, "progress": False}
    tasks = ["wired-facts", "wired-two-hop"]
    trained = train_lens(model, tasks, n_texts=40, steps=3, **options)
    read = lw.logit_lens(model, tasks, "continuation", lens="tuned", tuned=trained.lens, **options)
    found = emergence([read]).emergence
    assert {"tuned lens", "tuned decoder lens"} <= set(found["method"])
    page = lw.report([trained.result, read])
    assert {"tuned_lens", "lens_tuned_continuation", "lens_tuned_decoder_continuation"} <= set(
        page.figures
    )
    assert "It is a probe" in page.html
    titles = [axes.get_title("left") for axes in page.figures["tuned_lens"].axes]
    assert titles == ["encoder: decoder and tuned decoder lens", "decoder: logit and tuned lens"]
    assert "tuned decoder" in trained.result._repr_html_()
