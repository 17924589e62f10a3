"""Tables that earlier versions wrote, given the columns that came later.

Only what such a table itself says is filled in; what it does not say is null.
"""

from __future__ import annotations

import re

import pyarrow as pa

from layerwise.ground.layer_names import COMPUTATION

# What a lens table said before it could say anything else.
_LENS = {"lens": "logit", "over": "prompt", "site": "resid_post", "pos": -1, "token": None}

# What a patching table, whose pairs were all denoised, did not measure yet.
_PATCHING_FLOATS = (
    "clean_logprob", "corrupted_logprob", "patched_logprob", "unpatched_kl", "patched_kl",
)  # fmt: skip

# What senders of direct paths were called before there were models of two stacks.
_SENDERS = {"embedding": "embed", "head": "z", "mlp": "mlp_out"}

# What tables said before heads could be changed, before there were models of two stacks, before
# it was told how many pairs a model solves, before "no loss" was a claim with a test, and before
# depths were tested without resampling: what such tests said is not told as significant, before
# floors were measured, before answers were judged token by token, before items said what they
# ask for, so that each stood by itself, before noise was drawn more than once for an item, and
# before it was told which item asks the same without a passage, and before other layers had to
# turn round.
_CLUSTER = {"cluster": pa.string()}
_PAIRS = {"pairs_solved": pa.int64(), "pairs_reversed": pa.int64()} | _CLUSTER
_PAIRS |= {"pairs_p": pa.float64()}
_HEADS = {"head": pa.int64(), "heads": pa.list_(pa.int64())}
_SIGNAL = {"signal": pa.bool_()}
# Until it was told over how many tests, those of tasks with signal alone were counted.
_TESTS = {"run_tests": pa.int64()}
_RUN = _TESTS | dict.fromkeys(("p_run", "run_low", "run_high"), pa.float64())
_RECOVERED_RUN = _TESTS | dict.fromkeys(
    ("p_run", "recovered_run_low", "recovered_run_high"), pa.float64()
)
_SIGNIFICANT = {"significant": pa.bool_()}
_ACCURACIES = dict.fromkeys(("accuracy_first", "accuracy_second", "p_accuracy"), pa.float64())
_LATER = {
    "records": {
        "head": pa.int64(),
        "chosen": pa.int64(),
        "correct_first": pa.bool_(),
        "correct_forced": pa.bool_(),
        **_CLUSTER,
        "draw": pa.int64(),
        "closed_book": pa.string(),
        "examples": pa.int64(),
    },
    "effects": {
        "head": pa.int64(),
        "p_bh": pa.float64(),
        "n_lost": pa.int64(),
        "n_gained": pa.int64(),
        "p_no_loss": pa.float64(),
        "p_no_loss_nats": pa.float64(),
        "floor": pa.float64(),
        **dict.fromkeys(("p_run", "acc_diff_run_low", "acc_diff_run_high"), pa.float64()),
        **_TESTS,
        "n_clusters": pa.int64(),
        **dict.fromkeys(("margin", "margin_low", "margin_high"), pa.float64()),
        **dict.fromkeys(("n_draws", "n_examples"), pa.int64()),
    },
    "emergence": dict.fromkeys(("task_first", "task_last"), pa.string())
    | dict.fromkeys(("layer_first", "layer_last", "p_tasks"), pa.float64()),
    "order": _SIGNIFICANT | _ACCURACIES | {"shared": pa.list_(pa.int64())},
    "method_agreement": _SIGNIFICANT,
    "signal": dict.fromkeys(("blind", "no_layers", "p"), pa.float64())
    | dict.fromkeys(("n_clusters", "most_taken", "n_most_taken", "n_examples"), pa.int64())
    | {"guesser": pa.float64(), "guesser_rule": pa.string(), "n_guesser": pa.int64()}
    | {"guesser_held": pa.bool_()},
    "lens": _CLUSTER | {"blind": pa.bool_(), "options": pa.int64()},
    "prediction_depth": _CLUSTER,
    "attribution": _CLUSTER | {"blind": pa.bool_()},
    "removal": _CLUSTER,
    "interactions": _CLUSTER,
    "similarity": _CLUSTER,
    "transplant": _HEADS | {"split": pa.string(), "step": pa.int64()},
    "transplant_effects": _HEADS | _TESTS,
    "transplant_greedy": _TESTS,
    "books": _TESTS,
    "transplant_distances": {"head": pa.int64()},
    "transplant_ranks": {"rho_p": pa.float64()},
    "cka": {"stack": pa.string()},
    "patching": _PAIRS,
    "path_patching": _PAIRS,
    "attribution_patching": _PAIRS,
    "patching_effects": _SIGNAL | _RECOVERED_RUN,
    "path_effects": _SIGNAL | _RECOVERED_RUN,
    "attribution_summary": _RUN,
    "interaction_pairs": _RUN,
    "removal_steps": {"p_run": pa.float64(), "floor": pa.float64()} | _TESTS,
    "removal_curves": {"p_run": pa.float64()} | _TESTS,
    "comparison_differences": {"p_run": pa.float64()} | _TESTS,
    "tuned_lens_layers": {"p_run": pa.float64()},
    "ladder_steps": dict.fromkeys(("layer_first", "layer_second"), pa.int64()),
    "attribution_agreement": _SIGNAL | {"spearman_p": pa.float64()},
    "heads": {"next_token": pa.float64()},
    "heads_summary": dict.fromkeys(
        ("next_token", "next_token_low", "next_token_high"), pa.float64()
    ),
}


# What tables said before they could say anything else.
_ALWAYS = {
    "emergence": {"axis": COMPUTATION},
    "left_out": {"axis": COMPUTATION},
    "transplant": {"exchange": "weights"},
    "transplant_effects": {"exchange": "weights"},
}


def with_later_columns(name: str, table: pa.Table) -> pa.Table:
    """A table as read from a file, with the columns that its version did not write yet."""
    there = set(table.column_names)
    if name == "lens" and "lens" not in there and {"item", "layer", "top_tokens"} <= there:
        for column, value in _LENS.items():
            kind = pa.int64() if isinstance(value, int) else pa.string()
            table = table.append_column(column, pa.array([value] * len(table), kind))
        table = table.append_column("final_rank", pa.array(_final_ranks(table), pa.int64()))
    if name in ("tuned_lens", "tuned_lens_layers") and "lens" not in there and "kind" in there:
        # before there were models of two stacks
        table = table.append_column("lens", pa.array(["tuned"] * len(table), pa.string()))
    for column, kind in _LATER.get(name, {}).items():
        if column not in there:
            table = table.append_column(column, pa.nulls(len(table), kind))
    for column, value in _ALWAYS.get(name, {}).items():
        if column not in there:
            table = table.append_column(column, pa.array([value] * len(table), pa.string()))
    if name == "removal" and "kind" not in there and "step" in there:
        kinds = ["skip" if step else "intact" for step in table.column("step").to_pylist()]
        table = table.append_column("kind", pa.array(kinds, pa.string()))
    if name in ("records", "effects") and "intervention" in there and "layers" not in there:
        table = _with_places(table)
    if name in ("path_patching", "path_effects") and "site" not in there and "sender" in there:
        sites = [_SENDERS.get(s.split()[0]) for s in table.column("sender").to_pylist()]
        table = table.append_column("site", pa.array(sites, pa.string()))
    if name in ("heads", "heads_summary") and "site" not in there:
        table = table.append_column("site", pa.array(["z"] * len(table), pa.string()))
    if name == "patching" and "direction" not in there and "pos" in there:
        table = table.append_column("direction", pa.array(["denoising"] * len(table), pa.string()))
        table = table.append_column("source_pos", table.column("pos"))
        table = table.append_column("head", pa.nulls(len(table), pa.int64()))
        for column in _PATCHING_FLOATS:
            table = table.append_column(column, pa.nulls(len(table), pa.float64()))
    return table


def _with_places(table: pa.Table) -> pa.Table:
    """With the layers and heads that interventions change, which their ids alone told."""
    known = {one: _places(one) for one in set(table.column("intervention").to_pylist())}
    for i, column in enumerate(("layers", "heads")):
        values = [known[one][i] for one in table.column("intervention").to_pylist()]
        table = table.append_column(column, pa.array(values, pa.list_(pa.int64())))
    return table


def _places(intervention: str) -> tuple[list[int], list[int | None] | None]:
    """The layers that an id names, and the heads of these: ``zero:z,layer=3,head=1``."""
    layers: list[int] = []
    heads: list[int | None] = []
    for several, layer, head in re.findall(
        r":layers=([\d+]+)$|layer=(\d+)(?:,(?:head|group)=(\d+))?", intervention
    ):
        named = several.split("+") if several else [layer]
        layers += map(int, named)
        heads += [int(head) if head else None] * len(named)
    return layers, heads if any(head is not None for head in heads) else None


def _final_ranks(table: pa.Table) -> list[int | None]:
    """Rank of the model's own token at each layer, null where it is not among those named."""
    names = [name for name in ("task", "protocol", "item") if name in table.column_names]
    keys = list(zip(*(table.column(name).to_pylist() for name in names), strict=True))
    layers, tops = (table.column(name).to_pylist() for name in ("layer", "top_tokens"))
    last: dict[tuple[str, ...], tuple[int, str]] = {}
    for key, layer, top in zip(keys, layers, tops, strict=True):
        if top and (key not in last or layer > last[key][0]):
            last[key] = (layer, top[0])
    return [
        top.index(last[key][1]) if top and last[key][1] in top else None
        for key, top in zip(keys, tops, strict=True)
    ]
