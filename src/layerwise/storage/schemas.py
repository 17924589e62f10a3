"""The columns of every table that is saved.

``docs/results.md`` says what they mean. A run's folder must know which files are layerwise's.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_STRINGS, _INTEGERS, _FLOATS = (pa.list_(_TYPES[name]) for name in ("str", "int", "float"))


def _schema(**columns: Any) -> pa.Schema:
    """Columns by type: a name from ``_TYPES`` (with ``?`` where null is allowed), or pyarrow's."""
    plain = {n: _TYPES[k.rstrip("?")] if isinstance(k, str) else k for n, k in columns.items()}
    null = {n: not isinstance(k, str) or "?" in k for n, k in columns.items()}
    return pa.schema([pa.field(name, kind, null[name]) for name, kind in plain.items()])


_QUANTITY = dict.fromkeys(("family", "capability", "protocol", "method", "measure", "axis"), "str")
_QUANTITY |= {"tasks": "str", "n_tasks": "int", "n_items": "int"}

SCHEMAS: dict[str, pa.Schema] = {
    "records": _schema(
        intervention="str", kind="str", site="str?", layer="int?", task="str", capability="str",
        item="str", protocol="str", correct="bool", correct_norm="bool?", gold_logprob="float?",
        margin="float?", early_logprob="float?", late_logprob="float?", generated="str?",
        extracted="str?", head="int?", layers=_INTEGERS, heads=_INTEGERS, chosen="int?",
        correct_first="bool?", correct_forced="bool?", cluster="str?", draw="int?",
        closed_book="str?", examples="int?",
    ),
    "lens": _schema(
        task="str", capability="str", item="str", protocol="str", lens="str", over="str",
        site="str", layer="int", pos="int", token="str?", rank="int", final_rank="int?",
        logprob="float", entropy="float", kl="float", top_tokens=_STRINGS, cluster="str?",
        blind="bool?", options="int?",
    ),
    "prediction_depth": _schema(
        lens="str", protocol="str", capability="str", task="str", item="str", layer="int",
        depth="float", right="bool", cluster="str?",
    ),
    "prediction_depth_means": _schema(
        lens="str", protocol="str", capability="str", tasks="str", n_items="int", depth="float",
        low="float", high="float", median="float",
    ),
    "prediction_depth_comparisons": _schema(
        lens="str", protocol="str", first="str", second="str", n_first="int", n_second="int",
        difference="float", low="float", high="float", later="float", p="float", p_holm="float",
        significant="bool",
    ),
    "tuned_lens": _schema(
        kind="str", lens="str", text="int", layer="int", n_tokens="int", kl_logit="float",
        kl_tuned="float",
    ),
    "tuned_lens_layers": _schema(
        kind="str", lens="str", layer="int", n_texts="int", kl_logit="float", kl_logit_low="float",
        kl_logit_high="float", kl_tuned="float", kl_tuned_low="float", kl_tuned_high="float",
        difference="float", difference_low="float", difference_high="float", p="float",
        p_holm="float", lower="bool", p_run="float?",
    ),
    "patching": _schema(
        task="str", capability="str", item="str", protocol="str", direction="str", site="str",
        layer="int", head="int?", pos="int?", source_pos="int?", pos_label="str",
        clean_diff="float", corrupted_diff="float", patched_diff="float", recovered="float?",
        clean_logprob="float?", corrupted_logprob="float?", patched_logprob="float?",
        unpatched_kl="float?", patched_kl="float?", pairs_solved="int?", pairs_reversed="int?",
        cluster="str?", pairs_p="float?",
    ),
    "path_patching": _schema(
        task="str", capability="str", item="str", protocol="str", direction="str", receiver="str",
        sender="str", site="str", layer="int", head="int?", clean_diff="float",
        corrupted_diff="float", patched_diff="float", recovered="float", pairs_solved="int?",
        pairs_reversed="int?", cluster="str?", pairs_p="float?",
    ),
    "path_effects": _schema(
        task="str", capability="str", protocol="str", direction="str", receiver="str", sender="str",
        site="str", layer="int", head="int?", n_items="int", recovered="float?",
        recovered_low="float?", recovered_high="float?", change="float", change_low="float?",
        change_high="float?", p="float", p_bh="float", signal="bool?", significant="bool",
        p_run="float?", run_tests="int?", recovered_run_low="float?", recovered_run_high="float?",
    ),
    "attribution_patching": _schema(
        task="str", capability="str", item="str", protocol="str", direction="str", site="str",
        layer="int", head="int?", pos="int?", pos_label="str", clean_diff="float",
        corrupted_diff="float", estimated_diff="float", estimated="float", patched_diff="float?",
        recovered="float?", pairs_solved="int?", pairs_reversed="int?", cluster="str?",
        pairs_p="float?",
    ),
    "attribution_agreement": _schema(
        task="str", capability="str", protocol="str", direction="str", site="str", n_items="int",
        n_cells="int", spearman="float?", spearman_low="float?", spearman_high="float?",
        median_error="float?", largest_error="float?", signal="bool?", spearman_p="float?",
    ),
    "patching_effects": _schema(
        task="str", capability="str", protocol="str", direction="str", site="str", layer="int",
        head="int?", pos_label="str", metric="str", n_items="int", recovered="float?",
        recovered_low="float?", recovered_high="float?", change="float", change_low="float?",
        change_high="float?", p="float", p_bh="float", signal="bool?", significant="bool",
        p_run="float?", run_tests="int?", recovered_run_low="float?", recovered_run_high="float?",
    ),
    "attribution": _schema(
        task="str", capability="str", item="str", protocol="str", metric="str", component="str",
        layer="int?", head="int?", value="float", correct="bool", chance="float", cluster="str?",
        blind="bool?",
    ),
    "attribution_summary": _schema(
        task="str", capability="str", protocol="str", metric="str", component="str", layer="int?",
        head="int?", n_items="int", value="float", low="float?", high="float?", p="float?",
        p_adjusted="float?", signal="bool", significant="bool", p_run="float?", run_tests="int?",
        run_low="float?", run_high="float?",
    ),
    "heads": _schema(
        sequence="int", site="str", layer="int", head="int", prefix_matching="float",
        previous_token="float?", next_token="float?", duplicate_token="float", induction="float?",
    ),
    "heads_summary": _schema(
        site="str", layer="int", head="int", n_sequences="int", prefix_matching="float",
        prefix_matching_low="float?", prefix_matching_high="float?", previous_token="float?",
        previous_token_low="float?", previous_token_high="float?", next_token="float?",
        next_token_low="float?", next_token_high="float?", duplicate_token="float",
        duplicate_token_low="float?", duplicate_token_high="float?", induction="float?",
        induction_low="float?", induction_high="float?", induction_head="bool",
    ),
    "signal": _schema(
        task="str", capability="str", protocol="str", n_items="int", chance="float",
        accuracy="float", low="float", high="float", signal="bool", blind="float?",
        no_layers="float?", p="float?", n_clusters="int?", most_taken="int?", n_most_taken="int?",
        guesser="float?", guesser_rule="str?", n_guesser="int?", guesser_held="bool?",
        n_examples="int?",
    ),
    "estimates": _schema(
        what="str", kind="str", site="str", layer="int", capability="str", other="str?",
        tasks="str", protocols="str", n_items="int", n_other="int?", n_answers="int",
        acc_intact="float", acc="float", share="float?", share_other="float?", estimate="float",
        low="float", high="float", p="float", p_family="float", n_tests="int", established="bool",
    ),
    "effects": _schema(
        task="str", capability="str", protocol="str", intervention="str", kind="str", site="str?",
        layer="int?", n_items="int", chance="float", acc_intact="float", acc="float",
        acc_diff="float", acc_diff_low="float?", acc_diff_high="float?", share_lost="float?",
        share_low="float?", share_high="float?", p="float", p_holm="float", nats="float?",
        nats_low="float?", nats_high="float?", signal="bool", significant="bool", head="int?",
        p_bh="float?", n_lost="int?", n_gained="int?", p_no_loss="float?", p_no_loss_nats="float?",
        layers=_INTEGERS, heads=_INTEGERS, floor="float?", p_run="float?", run_tests="int?",
        acc_diff_run_low="float?", acc_diff_run_high="float?", n_clusters="int?", margin="float?",
        margin_low="float?", margin_high="float?", n_draws="int?", n_examples="int?",
    ),
    "ladder": _schema(
        task="str", capability="str", rung="str", unit="str", intervention="str", kind="str",
        site="str", layer="int", n_items="int", intact="float", changed="float", floor="float?",
        loss="float", loss_low="float?", loss_high="float?", share_lost="float?",
        share_low="float?", share_high="float?", p="float", p_holm="float", signal="bool",
        significant="bool",
    ),
    "ladder_steps": _schema(
        task="str", capability="str", kind="str", site="str", first="str", second="str",
        next_rung="bool", n_items="int", accuracy_first="float", accuracy_second="float",
        share_first="float?", share_second="float?", difference="float?", low="float?",
        high="float?", p="float", p_holm="float", n_common="int", layers_first=_INTEGERS,
        layers_second=_INTEGERS, p_other_layers="float", p_other_layers_holm="float",
        other_layers="bool", layer_first="int?", layer_second="int?",
    ),
    "dissociations": _schema(
        task="str", capability="str", kind="str", site="str", first="str", second="str",
        layer="int", n_common="int", only_first="int", only_second="int", lost_both="int",
        luck_first="float", luck_second="float", p_first="float", p_second="float",
    ),
    "books": _schema(
        closed="str", open="str", protocol="str", intervention="str", kind="str", site="str",
        layer="int?", n_pairs="int", loss_closed="float", loss_open="float", difference="float",
        low="float?", high="float?", share_closed="float?", share_open="float?",
        share_difference="float?", share_low="float?", share_high="float?", nats_closed="float?",
        nats_open="float?", nats_difference="float?", nats_low="float?", nats_high="float?",
        margin_closed="float?", margin_open="float?", margin_difference="float?",
        margin_low="float?", margin_high="float?", n_common="int", only_closed="int",
        only_open="int", lost_both="int", luck_closed="float", luck_open="float",
        protected="float?", p="float", p_corrected="float", p_run="float", run_tests="int?",
        protected_run_low="float?", protected_run_high="float?", loses_more="str?", head="int?",
        layers=_INTEGERS, heads=_INTEGERS,
    ),
    "book_pairs": _schema(
        closed="str", open="str", protocol="str", kind="str?", site="str?", n_pairs="int",
        n_clusters="int", acc_closed="float", acc_open="float", floor_closed="float",
        floor_open="float", n_common="int", signal_closed="bool", signal_open="bool",
        n_closed_more="int?", n_open_more="int?", p="float?", p_holm="float?", both_sorts="bool?",
    ),
    "emergence": _schema(
        capability="str", protocol="str", method="str", measure="str", axis="str", estimate="float",
        low="float?", high="float?", layer="float", layer_low="float?", layer_high="float?",
        layers=_INTEGERS, n_items="int", n_tasks="int", tasks="str", n_resamples="int",
        n_dropped="int", task_first="str?", layer_first="float?", task_last="str?",
        layer_last="float?", p_tasks="float?",
    ),
    "order": _schema(
        first="str", second="str", protocol="str", method="str", measure="str",
        difference="float?", low="float?", high="float?", p="float", p_holm="float",
        significant="bool?", shared=_INTEGERS, accuracy_first="float?", accuracy_second="float?",
        p_accuracy="float?",
    ),
    "method_agreement": _schema(
        capability="str", protocol="str", first="str", second="str", measure="str",
        first_depth="float?", second_depth="float?", estimate="float", low="float?", high="float?",
        p="float", p_holm="float", n_items="int", n_tasks="int", tasks="str", significant="bool?",
    ),
    "protocol_interaction": _schema(
        capability="str", first="str", second="str", group="str", layers=_INTEGERS,
        share_first="float", share_first_low="float?", share_first_high="float?",
        share_second="float", share_second_low="float?", share_second_high="float?",
        difference="float", low="float?", high="float?", n_items="int", n_tasks="int", tasks="str",
        p="float", p_holm="float",
    ),
    "left_out": _schema(
        capability="str", protocol="str", method="str", task="str?", reason="str", axis="str",
    ),
    "removal": _schema(
        by="str", step="int", intervention="str", layers=_INTEGERS, chosen="bool", split="str",
        task="str", capability="str", item="str", protocol="str", correct="bool",
        gold_logprob="float?", kind="str", cluster="str?",
    ),
    "removal_steps": _schema(
        by="str", step="int", intervention="str", layers=_INTEGERS, split="str", task="str",
        capability="str", protocol="str", n_items="int", chance="float", acc_intact="float",
        acc="float", acc_diff="float", acc_diff_low="float?", acc_diff_high="float?",
        share_lost="float?", share_low="float?", share_high="float?", p="float", p_holm="float",
        nats="float?", nats_low="float?", nats_high="float?", signal="bool", significant="bool",
        p_run="float?", run_tests="int?", floor="float?",
    ),
    "removal_curves": _schema(
        by="str", protocol="str", capability="str", step="int", intervention="str",
        layers=_INTEGERS, tasks="str", n_tasks="int", n_items="int", share_lost="float",
        share_low="float?", share_high="float?", p="float", p_holm="float", significant="bool",
        p_run="float?", run_tests="int?",
    ),
    "removal_candidates": _schema(
        by="str", step="int", intervention="str", layers=_INTEGERS, chosen="bool", protocol="str",
        n_tasks="int", n_items="int", share_lost="float", nats="float?",
    ),
    "interactions": _schema(
        intervention="str", site="str", layers=_INTEGERS, heads=_INTEGERS, task="str",
        capability="str", item="str", protocol="str", correct="bool", gold_logprob="float?",
        margin="float?", cluster="str?",
    ),
    "interaction_orders": _schema(permutation="int", place="int", layer="int", head="int?"),
    "interaction_pairs": _schema(
        task="str", capability="str", protocol="str", measure="str", site="str", first_layer="int",
        first_head="int?", second_layer="int", second_head="int?", n_items="int",
        cost_first="float", cost_second="float", cost_both="float", interaction="float",
        low="float?", high="float?", excess="float?", excess_low="float?", excess_high="float?",
        p="float", p_bh="float", signal="bool", significant="bool", at_floor="str", verdict="str?",
        p_run="float?", run_tests="int?", run_low="float?", run_high="float?",
    ),
    "shapley": _schema(
        task="str", capability="str", protocol="str", measure="str", site="str", by="str",
        layer="int", head="int?", n_items="int", n_permutations="int?", alone="float",
        value="float", low="float?", high="float?", se="float?", se_sampling="float?",
        total="float", signal="bool",
    ),
    "transplant": _schema(
        host="str", intervention="str", kind="str", set="str?", site="str?", layer="int?",
        layers=_INTEGERS, t="float?", task="str", capability="str", item="str", protocol="str",
        correct="bool", correct_norm="bool?", gold_logprob="float?", margin="float?",
        generated="str?", extracted="str?", chosen="int?", cluster="str?", head="int?",
        heads=_INTEGERS, exchange="str?", split="str?", step="int?",
    ),
    "transplant_distances": _schema(
        site="str", layer="int?", part="str?", n_parameters="int", norm="float", distance="float?",
        head="int?",
    ),
    "transplant_gaps": _schema(
        task="str", capability="str", protocol="str", n_items="int", n_clusters="int",
        chance="float", acc_base="float", acc_other="float", signal_base="bool",
        signal_other="bool", better="str", gap="float", gap_low="float", gap_high="float",
        n_better="int", n_worse="int", p="float", p_holm="float", found="bool", nats="float?",
        nats_low="float?", nats_high="float?",
    ),
    "transplant_effects": _schema(
        task="str", capability="str", protocol="str", host="str", direction="str",
        intervention="str", set="str", site="str", layer="int?", layers=_INTEGERS, t="float",
        n_items="int", n_clusters="int", acc_base="float", acc_other="float", acc="float",
        moved="float", moved_low="float?", moved_high="float?", share="float?", share_low="float?",
        share_high="float?", nats="float?", nats_low="float?", nats_high="float?", n_moved="int",
        n_against="int", p="float", p_holm="float", signal="bool", significant="bool",
        p_run="float?", run_tests="int?", run_low="float?", run_high="float?", head="int?",
        heads=_INTEGERS, exchange="str",
    ),
    "transplant_ranks": _schema(
        task="str", capability="str", protocol="str", host="str", direction="str", site="str",
        n_layers="int", n_items="int", rho="float?", rho_low="float?", rho_high="float?",
        rho_p="float?",
    ),
    "distillation": _schema(
        host="str", intervention="str", kind="str", site="str?", layer="int?", layers=_INTEGERS,
        task="str", capability="str", item="str", protocol="str", correct="bool",
        correct_norm="bool?", gold_logprob="float?", margin="float?", generated="str?",
        extracted="str?", chosen="int?", cluster="str?",
    ),
    "distillation_curve": _schema(
        step="int", rate="float?", loss="float?", divergence="float?", cross_entropy="float?",
        hidden="float?", n_texts="int?", n_own="int?", n_tokens="int?", held_out_kl="float?",
    ),
    "distillation_gains": _schema(
        task="str", capability="str", protocol="str", n_items="int", n_clusters="int",
        chance="float", acc_teacher="float", acc_student="float", acc_distilled="float",
        signal_teacher="bool", signal_student="bool", signal_distilled="bool", gain="float",
        gain_low="float", gain_high="float", n_gained="int", n_lost="int", p="float",
        p_holm="float", improved="bool", worse="bool", lead="float", lead_low="float",
        lead_high="float", lead_p_holm="float", leads="bool", closed="float?", closed_low="float?",
        closed_high="float?", nats="float?", nats_low="float?", nats_high="float?",
        gain_run_low="float", gain_run_high="float",
    ),
    "transplant_greedy": _schema(
        task="str", capability="str", protocol="str", host="str", direction="str", step="int",
        intervention="str", site="str", layer="int", layers=_INTEGERS, head="int?", heads=_INTEGERS,
        n_candidates="int", n_selection="int", moved_selection="float", n_items="int",
        n_clusters="int", acc_base="float", acc_other="float", acc="float", moved="float",
        moved_low="float?", moved_high="float?", share="float?", share_low="float?",
        share_high="float?", nats="float?", nats_low="float?", nats_high="float?", n_moved="int",
        n_against="int", p="float", p_holm="float", signal="bool", significant="bool",
        p_run="float?", run_tests="int?", run_low="float?", run_high="float?",
    ),
    "similarity": _schema(
        task="str", capability="str", item="str", protocol="str", layer="int", influence="float",
        angular=_FLOATS, cluster="str?",
    ),
    "cka": _schema(
        task="str", capability="str", protocol="str", stack="str?", layer="int", other="int",
        n_items="int", cka="float?", cka_unbiased="float?",
    ),
    "angular": _schema(
        task="str", capability="str", protocol="str", layer="int", n_layers="int", n_items="int",
        distance="float", low="float?", high="float?", least="bool",
    ),
    "influence": _schema(
        task="str", capability="str", protocol="str", layer="int", n_items="int", influence="float",
        low="float?", high="float?",
    ),
    "prediction": _schema(
        capability="str", protocol="str", predictor="str", effect="str", stack="str?",
        n_layers="int", n_items="int", n_tasks="int", tasks="str", rho="float?", low="float?",
        high="float?", p="float", p_holm="float",
    ),
    "pruning": _schema(
        task="str", capability="str", item="str", protocol="str", intact_correct="bool",
        predicted_correct="bool", measured_correct="bool", intact_gold_logprob="float?",
        predicted_gold_logprob="float?", measured_gold_logprob="float?", intact_generated="str?",
        predicted_generated="str?", measured_generated="str?",
    ),
    "comparison_layers": _schema(
        run="str", capability="str", task="str", protocol="str", kind="str", site="str",
        layer="int", start="float", end="float", n_items="int", share_lost="float?",
        share_low="float?", share_high="float?", acc_diff="float", p_holm="float", signal="bool",
        significant="bool",
    ),
    "comparison_estimates": _schema(
        run="str", group="str?", **_QUANTITY, estimate="float", low="float?", high="float?",
    ),
    "comparison_differences": _schema(
        unit="str", first="str", second="str", **_QUANTITY, estimate_first="float",
        estimate_second="float", difference="float", low="float?", high="float?", p="float",
        p_holm="float", significant="bool", n_first="int", n_second="int", error_runs="float?",
        error_items="float?", df="float?", p_run="float?", run_tests="int?",
    ),
    "comparison_groups": _schema(
        group="str", n_runs="int", **_QUANTITY, mean="float", sd="float", least="float",
        most="float",
    ),
    "comparison_left_out": _schema(
        runs="str", capability="str?", task="str?", protocol="str?", method="str?", reason="str",
    ),
    "training_accuracy": _schema(
        step="int", task="str", capability="str", protocol="str", n_items="int", n_clusters="int",
        chance="float", accuracy="float", low="float", high="float", blind="float?",
        no_layers="float?", p="float", p_series="float", signal="bool",
    ),
    "training_layers": _schema(
        step="int", task="str", capability="str", protocol="str", kind="str", site="str",
        layer="int", n_items="int", share_lost="float?", share_low="float?", share_high="float?",
        acc_diff="float", acc_diff_low="float?", acc_diff_high="float?", p="float",
        p_series="float?", signal="bool", significant="bool",
    ),
    "training_depths": _schema(
        step="int", capability="str", protocol="str", method="str", measure="str", axis="str",
        estimate="float", low="float?", high="float?", layer="float", layer_low="float?",
        layer_high="float?", layers=_INTEGERS, n_items="int", tasks="str",
    ),
    "training_onsets": _schema(
        task="str", capability="str", protocol="str", n_steps="int", n_items="int",
        n_clusters="int", p="float", p_corrected="float", appears="bool", onset="int?", low="int?",
        high="int?", layers_step="int?", layers_first=_INTEGERS, layers_last_step="int?",
        layers_last=_INTEGERS,
    ),
    "training_moves": _schema(
        task="str", capability="str", protocol="str", first_step="int", last_step="int",
        n_steps="int", n_items="int", n_clusters="int", layer_early="float", layer_late="float",
        change="float", low="float?", high="float?", p="float", p_holm="float", significant="bool",
    ),
}  # fmt: skip
