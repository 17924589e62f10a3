"""Changes of weights as branches of one sweep: the answers of models that really have them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from layerwise.analyses.transplant.exchange.parts import site_outside
from layerwise.analyses.transplant.exchange.spec import Change, TransplantSpec
from layerwise.analyses.transplant.exchange.weights import Exchange, is_alone, use_donor_weights
from layerwise.errors import UserError
from layerwise.models.decoder.load import hooked_decoder
from layerwise.models.instance.facts import weights_hash
from layerwise.models.instance.structure import model_version
from layerwise.sweep import Generate, LogLikelihood, intact, skip, sweep, together, zero
from layerwise.sweep.changes.interventions import with_weights
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.plans.walk_plan import plan_walk
from layerwise.sweep.run import plan_for_model
from tests.cases import in_long_runs
from tests.models.decoder.tiny import tiny_original
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model, tiny_tokenizer
from tests.transplanting import assert_answers_equal, word_requests

SEQ2SEQ = ("t5", "bart", "flan-t5")
# Over their own modules: norms on both sides; norms of all queries; one norm for two sublayers;
# heads that are not apart, and values narrower than keys; one product for queries, keys, values;
# sinks; an MLP without a module; a module around attention.
OWN = (
    "gemma 2", "olmo 2", "cohere 2", "deepseek 3", "falcon, two norms", "gpt-oss", "opt", "gpt-neo",
)  # fmt: skip
SETS = ("single", "together", "from_first", "from_last")


def pair(case: str) -> tuple[Any, Any]:
    """Two models of one architecture, all of whose weights differ; what is tied stays tied."""
    if case in OWN:
        model = hooked_decoder(tiny_original(case, vocab_size=304), tiny_tokenizer(), case)
    else:
        model = tiny_seq2seq(case) if case in SEQ2SEQ else tiny_model(case)
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
        if case == "gpt2":
            other.unembed.W_U.copy_(other.embed.W_E.T)
    return model, other


def short_requests(model: Any, n: int = 2) -> list[Any]:
    found = word_requests(model, n=n)
    return [replace(one, max_tokens=6) if isinstance(one, Generate) else one for one in found]


def transplant_changes(
    model: Any, other: Any, site: str, sets: tuple[str, ...], steps: int
) -> list[Any]:
    layers = tuple(range(model.cfg.n_layers))
    return list(TransplantSpec.for_models(model, other, site, layers, sets, steps, False).changes())


def single_edit(exchange: Exchange, *change: Any, **more: Any) -> Any:
    """The one edit of a change."""
    (edit,) = exchange.intervention(Change("single", *change, **more)).edits
    return edit


ONE = ("single",)


@pytest.mark.long(but=["qwen3-norms-sets6-1", "gpt2-layer-sets0-1", "t5-cross_attn_out-sets9-2"])
@pytest.mark.parametrize(
    ("case", "site", "sets", "steps"),
    [
        ("gpt2", "layer", SETS, 1), ("gpt2", "embed", ONE, 1), ("gpt2", "ln_final", ONE, 1),
        ("qwen3", "layer", ("single", "from_last"), 2), ("qwen3", "mlp_out", ONE, 1),
        ("qwen3", "kv_group", ("single", "together"), 1), ("qwen3", "norms", ONE, 1),
        ("gpt_neo", "unembed", ONE, 1),
        ("t5", "layer", SETS, 1), ("t5", "cross_attn_out", ("single", "from_first"), 2),
        ("t5", "ln_final", ONE, 1), ("flan-t5", "unembed", ONE, 1),
        ("gemma 2", "layer", ("together", "from_first"), 2),
        ("cohere 2", "mlp_out", ("single", "from_last"), 1), ("deepseek 3", "layer", ONE, 1),
        ("opt", "layer", ("from_last",), 1),
        # Their way through the engine is that of others.
        *in_long_runs(
            ("gpt2", "z", ("single", "from_first"), 1), ("qwen3", "embed", ONE, 1),
            ("qwen3", "unembed", ONE, 1), ("gpt_neo", "layer", SETS, 1), ("t5", "embed", ONE, 1),
            ("bart", "layer", ("single", "from_last"), 1), ("bart", "z", ONE, 1),
            ("bart", "embed", ONE, 1), ("flan-t5", "embed", ONE, 1),
            ("gemma 2", "attn_out", ONE, 1), ("gemma 2", "norms", ONE, 1),
            ("gemma 2", "embed", ONE, 1), ("olmo 2", "z", ONE, 1),
            ("olmo 2", "kv_group", ("single", "together"), 1), ("olmo 2", "ln_final", ONE, 1),
            ("olmo 2", "unembed", ONE, 1), ("cohere 2", "attn_out", ONE, 1),
            ("cohere 2", "layer", ONE, 1), ("falcon, two norms", "layer", ONE, 1),
            ("falcon, two norms", "norms", SETS, 1), ("gpt-oss", "z", ONE, 1),
            ("gpt-oss", "kv_group", ("single", "together"), 1), ("opt", "embed", ONE, 1),
            ("gpt-neo", "attn_out", ONE, 1),
        ),
    ],
)  # fmt: skip
def test_one_sweep_answers_as_models_that_really_have_the_weights(case, site, sets, steps):
    host, donor = pair(case)
    before = weights_hash(host), model_version(host)
    changes = transplant_changes(host, donor, site, sets, steps)
    exchange, asked = Exchange(host, donor), short_requests(host)
    every = [intact(), *map(exchange.intervention, changes)]
    swept = sweep(host, every, asked)
    merged = copy.deepcopy(host)
    (plain,) = sweep(merged, [intact()], asked, method="reference").outcomes
    assert_answers_equal(swept.outcomes[0], plain)
    known: dict[Any, Any] = {}
    for change, found in zip(changes, swept.outcomes[1:], strict=True):
        what = (change.layers, change.t, change.heads)
        if what not in known:  # in a copy, so that nothing of the host's can be left in it
            with use_donor_weights(merged, donor, change.site, *what):
                (known[what],) = sweep(merged, [intact()], asked, method="reference").outcomes
        assert_answers_equal(found, known[what])
        assert found != swept.outcomes[0]
    assert (weights_hash(host), model_version(host)) == before


@pytest.mark.long
@pytest.mark.parametrize("case", ["gpt_neo", "t5", "gemma 2", *in_long_runs(("qwen3",), ("bart",))])
def test_engine_and_reference_agree_on_other_weights_beside_other_changes(case):
    host, donor = pair(case)
    exchange, last = Exchange(host, donor), host.cfg.n_layers - 1

    def swap(layer: int) -> Any:
        return exchange.intervention(Change("single", "layer", (layer,)))

    embed = Change("single", site_outside(host, donor, "embed"), ())
    every = [
        together([swap(0), zero("mlp_out", 0)]),
        together([swap(1), skip(last)]),
        together([swap(last), zero("z", last, 1)]),
        together([skip(0), swap(0)]),
        together([skip(last), swap(last)]),
        together([zero("attn_out", 0), swap(last)]),
        together([exchange.intervention(embed), swap(1)]),
        swap(last),
        intact(),
    ]  # fmt: skip
    asked = short_requests(host)
    plain = sweep(host, every, asked, method="reference").outcomes
    for budget in (DEFAULT_MEMORY_BUDGET, 2**20):
        for found, expected in zip(
            sweep(host, every, asked, memory_budget=budget).outcomes, plain, strict=True
        ):
            assert_answers_equal(found, expected)


@pytest.mark.parametrize(("case", "site"), [("gpt2", "ln_final"), ("qwen3", "unembed")])
def test_a_branch_behind_all_layers_needs_no_intact_model_beside_it(case, site):
    host, donor = pair(case)
    (change,) = transplant_changes(host, donor, site, ("single",), 1)
    swap, asked = Exchange(host, donor).intervention(change), short_requests(host)
    for every in ([swap], [skip(1), swap]):
        plain = sweep(host, every, asked, method="reference").outcomes
        for found, expected in zip(sweep(host, every, asked).outcomes, plain, strict=True):
            assert_answers_equal(found, expected)


def test_branches_that_read_encoder_outputs_have_their_own_layers():
    host, donor = pair("t5")
    changes = transplant_changes(host, donor, "layer", SETS, 1)
    long = [tuple(range(3 + i, 3 + i + 120)) for i in range(2)]
    asked = [LogLikelihood(long[0], (7, 8)), LogLikelihood(long[1], (9,))]
    sizes = host.cfg.n_layers, host.cfg.n_encoder_layers
    plan = plan_walk([intact()], asked, *sizes, host.prefix)
    assert plan.reads_outputs(host.cfg.decoder_d_head)
    every = [*map(Exchange(host, donor).intervention, changes)]
    plain = sweep(host, every, asked, method="reference").outcomes
    for found, expected in zip(sweep(host, every, asked).outcomes, plain, strict=True):
        assert_answers_equal(found, expected)


@pytest.mark.parametrize("case", ["qwen3", "t5"])
def test_layers_before_the_first_changed_one_are_run_once_for_all(case):
    host, donor = pair(case)
    changes = transplant_changes(host, donor, "layer", ("single",), 1)
    exchange = Exchange(host, donor)
    made, asked = [*map(exchange.intervention, changes)], short_requests(host)
    scored = [one for one in asked if not hasattr(one, "max_tokens")]
    swept = sweep(host, made, scored)
    assert swept.stats.token_passes == plan_for_model(host, made, scored).token_passes
    n = host.cfg.n_layers
    skipped = sweep(host, [skip(layer) for layer in range(n)], scored).stats
    assert swept.stats.block_passes == skipped.block_passes + n
    one = sweep(host, [intact()], scored).stats
    assert swept.stats.block_passes == n * (n + 1) / 2 + n - 1 < n * one.block_passes + n


def test_whole_layers_of_the_other_model_are_no_copies_and_parts_of_them_are():
    host, donor = pair("qwen3")
    exchange = Exchange(host, donor)
    whole = single_edit(exchange, "layer", (1,))
    twin = whole.weights.twin(host.blocks[1])
    mine = {one.data_ptr() for one in twin.parameters() if one.numel()}
    assert mine == {one.data_ptr() for one in donor.blocks[1].parameters() if one.numel()}
    part = single_edit(exchange, "mlp_out", (1,))
    twin = part.weights.twin(host.blocks[1])
    assert twin.attn.W_Q.data_ptr() == host.blocks[1].attn.W_Q.data_ptr()
    assert twin.mlp.W_in.data_ptr() == donor.blocks[1].mlp.W_in.data_ptr()
    assert whole.weights.copied_bytes == part.weights.copied_bytes == 0
    heads = single_edit(exchange, "z", (1,), heads=(0,))
    attn = host.blocks[1].attn
    copied = attn.W_Q.numel() + attn.b_Q.numel() + attn.W_O.numel()
    assert heads.weights.copied_bytes >= 4 * copied
    between = single_edit(exchange, "layer", (1,), t=0.5)
    size = sum(4 * one.numel() for one in host.blocks[1].parameters())
    assert between.weights.copied_bytes == size


@pytest.mark.parametrize(
    "case", ["cohere 2", *in_long_runs(*((c,) for c in OWN if c != "cohere 2"))]
)
def test_layers_over_their_own_modules_are_no_copies_either(case):
    host, donor = pair(case)
    twin = single_edit(Exchange(host, donor), "layer", (2,)).weights.twin(host.blocks[2])
    mine, theirs, own = (
        {w.data_ptr() for module in block.parts.modules() for w in module.parameters()}
        for block in (twin, donor.blocks[2], host.blocks[2])
    )
    assert mine == theirs
    assert not mine & own
    twin = single_edit(Exchange(host, donor), "mlp_out", (2,)).weights.twin(host.blocks[2])
    assert next(twin.parts.mlp.parameters()).data_ptr() in theirs
    assert next(twin.parts.attn.out.parameters()).data_ptr() in own


def test_texts_are_written_with_as_many_copies_as_the_budget_has_room_for():
    host, donor = pair("qwen3")
    exchange = Exchange(host, donor)
    changes = transplant_changes(host, donor, "layer", ("single",), 2)
    size = sum(4 * one.numel() for one in host.blocks[0].parameters())
    at_once = [len(of) for of in exchange.sweep_groups(changes, True, 8 * size)]
    assert at_once == [2, 2, 2]
    assert [len(of) for of in exchange.sweep_groups(changes, False, 8 * size)] == [6]
    assert [len(of) for of in exchange.sweep_groups(changes, True, 2**30)] == [6]


def test_what_concerns_all_layers_has_the_model_to_itself():
    assert is_alone(Change("single", "rel_pos", ()))
    assert is_alone(Change("single", "embed", (), t=0.5))
    assert not is_alone(Change("single", "embed", ()))
    assert not is_alone(Change("single", "layer", (0,), t=0.5))


def test_other_weights_where_there_is_no_place_or_twice_are_refused():
    host, donor = pair("qwen3")
    exchange, asked = Exchange(host, donor), short_requests(host, 1)
    edit = single_edit(exchange, "layer", (1,))
    with pytest.raises(UserError, match="other weights twice in one place"):
        sweep(host, [with_weights("two", "layer", (edit, edit))], asked)
    beyond = replace(edit, layer=3)
    with pytest.raises(UserError, match="Layer 3 of intervention 'far' is out of range"):
        sweep(host, [with_weights("far", "layer", (beyond,))], asked)
