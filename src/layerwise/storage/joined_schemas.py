"""The columns of the tables that join runs: comparisons, and series of checkpoints."""

from __future__ import annotations

import pyarrow as pa

from .column_types import INTEGERS, schema

_QUANTITY = dict.fromkeys(("family", "capability", "protocol", "method", "measure", "axis"), "str")
_QUANTITY |= {"tasks": "str", "n_tasks": "int", "n_items": "int"}
JOINED: dict[str, pa.Schema] = {
    "comparison_layers": schema(
        run="str", capability="str", task="str", protocol="str", kind="str", site="str",
        layer="int", start="float", end="float", n_items="int", share_lost="float?",
        share_low="float?", share_high="float?", acc_diff="float", p_holm="float", signal="bool",
        significant="bool",
    ),
    "comparison_estimates": schema(
        run="str", group="str?", **_QUANTITY, estimate="float", low="float?", high="float?",
    ),
    "comparison_differences": schema(
        unit="str", first="str", second="str", **_QUANTITY, estimate_first="float",
        estimate_second="float", difference="float", low="float?", high="float?", p="float",
        p_holm="float", significant="bool", n_first="int", n_second="int", error_runs="float?",
        error_items="float?", df="float?", p_run="float?", run_tests="int?",
    ),
    "comparison_groups": schema(
        group="str", n_runs="int", **_QUANTITY, mean="float", sd="float", least="float",
        most="float",
    ),
    "comparison_left_out": schema(
        runs="str", capability="str?", task="str?", protocol="str?", method="str?", reason="str",
    ),
    "training_accuracy": schema(
        step="int", task="str", capability="str", protocol="str", n_items="int", n_clusters="int",
        chance="float", accuracy="float", low="float", high="float", blind="float?",
        no_layers="float?", p="float", p_series="float", signal="bool",
    ),
    "training_layers": schema(
        step="int", task="str", capability="str", protocol="str", kind="str", site="str",
        layer="int", n_items="int", share_lost="float?", share_low="float?", share_high="float?",
        acc_diff="float", acc_diff_low="float?", acc_diff_high="float?", p="float",
        p_series="float?", signal="bool", significant="bool",
    ),
    "training_depths": schema(
        step="int", capability="str", protocol="str", method="str", measure="str", axis="str",
        estimate="float", low="float?", high="float?", layer="float", layer_low="float?",
        layer_high="float?", layers=INTEGERS, n_items="int", tasks="str",
    ),
    "training_onsets": schema(
        task="str", capability="str", protocol="str", n_steps="int", n_items="int",
        n_clusters="int", p="float", p_corrected="float", appears="bool", onset="int?", low="int?",
        high="int?", layers_step="int?", layers_first=INTEGERS, layers_last_step="int?",
        layers_last=INTEGERS,
    ),
    "training_moves": schema(
        task="str", capability="str", protocol="str", first_step="int", last_step="int",
        n_steps="int", n_items="int", n_clusters="int", layer_early="float", layer_late="float",
        change="float", low="float?", high="float?", p="float", p_holm="float", significant="bool",
    ),
}  # fmt: skip
