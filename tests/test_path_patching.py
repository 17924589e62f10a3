"""Direct paths against runs in which everything else is frozen by hand, and where they add up."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from layerwise.analyses.path_patching.api import patch_paths, refuse_norms_after
from layerwise.analyses.path_patching.components import (
    EMBEDDING,
    Receiver,
    Sender,
    parse_receiver,
    senders_of,
)
from layerwise.analyses.path_patching.paths import received, written
from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.tasks import patching_prompts
from tests import analysis
from tests.analysis import prompt_pair, word_task
from tests.frozen_paths import assert_is_what_was_said, by_freezing, cached, intact
from tests.models.tiny import tiny_model
from tests.sweep.models import random_model

CLEAN, OTHER = (1, 7, 3, 9, 12, 5), (1, 8, 3, 9, 20, 5)
KINDS = ("llama-gqa", "gpt2", "neox", "attention only", "qk-norm", "soft-caps")
RECEIVERS = ("logits", "q:2.1", "k:2.0", "v:3.0", "mlp:2")
# By day queries, keys and values by turns, each in two kinds of blocks.
BY_DAY = [
    (name, kind)
    for i, kind in enumerate(KINDS)
    for name in ("logits", "mlp:2", RECEIVERS[1 + i % 3])
]


def flows_of(model, senders):
    runs = (written(model, tokens, senders) for tokens in (OTHER, CLEAN))
    return torch.stack([theirs - mine for theirs, mine in zip(*runs, strict=True)])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*each, marks=[] if each in BY_DAY else pytest.mark.long)
        for each in product(RECEIVERS, KINDS)
    ],
)
def test_paths_equal_runs_with_all_else_frozen(kind, name):
    model = random_model(kind)
    if model.cfg.attn_only and name.startswith("mlp"):
        return
    receiver = parse_receiver(name, model)
    chosen = [s for s in senders_of(model) if receiver.hears(s, model.cfg.parallel_attn_mlp)]
    flows = flows_of(model, chosen)
    found = received(model, CLEAN, receiver, chosen, flows)
    nothing = received(model, CLEAN, receiver, chosen[:1], torch.zeros_like(flows[:1]))[0]
    torch.testing.assert_close(nothing, intact(model, CLEAN), atol=1e-4, rtol=0)
    for i in range(0, len(chosen), 2):
        expected = by_freezing(model, CLEAN, OTHER, chosen[i], receiver)
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)
    assert float((found - nothing).abs().max()) > 1e-2


def test_without_norms_all_paths_into_the_logits_add_up_to_the_whole():
    model = random_model("no norm")
    senders = senders_of(model)
    flows = flows_of(model, senders)
    ends = [cached(model, t)["blocks.3.hook_resid_post"][0] for t in (OTHER, CLEAN)]
    torch.testing.assert_close(flows.sum(0), ends[0] - ends[1], atol=1e-4, rtol=0)
    # a difference of two logits is linear in the stream here
    said = received(model, CLEAN, Receiver("logits"), senders, flows)
    difference = said[:, 4] - said[:, 5]
    logits = [model(torch.tensor([t]))[0, -1].detach().double() for t in (CLEAN, OTHER)]
    base, aim = (float(x[4] - x[5]) for x in logits)
    assert float((difference - base).sum()) == pytest.approx(aim - base, abs=1e-3)


def test_who_is_heard():
    early, own, late = (Sender(*spot, "z") for spot in ((1, 0), (2, 3), (3, 0)))
    mlp = Sender(2, None, "mlp_out")
    reads = [Receiver("q", 2, 0), Receiver("mlp", 2), Receiver("logits")]
    heard = [[r.hears(s, False) for s in (early, own, mlp, late)] for r in reads]
    assert heard == [[True, False, False, False], [True, True, False, False], [True] * 4]
    assert not Receiver("mlp", 2).hears(own, True)
    assert [s.name for s in (Sender(-1, None, EMBEDDING), early, mlp)] == [
        "embedding",
        "head 1.0",
        "mlp 2",
    ]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", seed=1)


@pytest.fixture(scope="module")
def task(model):
    changes = (("the red door of the what is", "the blue door of the what is"),
               ("the four key is", "the four what is"))  # fmt: skip
    items = [prompt_pair(model, f"pair/{i}", *change) for i, change in enumerate(changes)]
    return word_task(items=tuple(items))


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_a_row_for_every_pair_receiver_and_sender(model, task, direction):
    receivers = ("logits", "q:1.2")
    result = patch_paths(model, task, receivers, direction=direction, progress=False)
    table = result.path_patching
    assert list(table.columns) == analysis.documented_columns("path_patching.parquet")
    assert table["receiver"].value_counts().to_dict() == {"logits": 2 * 16, "q:1.2": 2 * 6}
    prompts = patching_prompts(task, task.items[0], original_tokenizer(model))
    runs = (prompts.clean, prompts.corrupted)[:: 1 if direction == "noising" else -1]
    mine = table.loc[table["item"] == "pair/0"]
    for row in mine.sample(8, random_state=0).itertuples():
        head = int(row.head) if row.site == "z" else None
        sender = Sender(int(row.layer), head, row.site)
        assert sender.name == row.sender
        said = by_freezing(model, *runs, sender, parse_receiver(row.receiver, model))
        assert_is_what_was_said(row, said, prompts)
    effects = result.effects()
    assert list(effects.columns) == analysis.documented_columns("path_effects.parquet")
    assert len(effects) == 16 + 6
    assert "sender" in result._repr_html_()


def test_a_group_has_keys_of_its_own(model, task):
    with pytest.raises(UserError, match="heads 0 to 1 for it"):
        patch_paths(model, task, "k:1.2", progress=False)


def test_models_whose_heads_have_no_term_of_their_own_are_refused():
    model = random_model("llama-gqa")
    refuse_norms_after(model.cfg)
    changed = type("Config", (), {**vars(model.cfg), "use_normalization_before_and_after": True})
    with pytest.raises(UserError, match="path patching cannot be exact"):
        refuse_norms_after(changed)
