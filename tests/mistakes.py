"""Check that tests catch classic mistakes of the field: each is put into a copy of the package.

    python tests/mistakes.py [MISTAKE ...]

Each is made where a person would make it, so that engine, tables and reports all follow it; the
tests named beside it know the answer from elsewhere. How it is done is told in ``faults``.
"""

from __future__ import annotations

import sys

from faults import Fault, judge_all

GROUND_TRUTH = "tests/test_ground_truth.py::test_"
HEADS = GROUND_TRUTH + "ablation_finds_the_planted_heads"

FAULTS = [
    Fault(
        "what a layer adds goes unscaled",
        "models/decoder/parts.py",
        "return out if self.residual_scale == 1.0 else out * self.residual_scale",
        "return out",
        (
            "tests/models/decoder/test_parity.py::"
            "test_log_probabilities_are_those_of_the_original[granite]",
        ),
    ),
    Fault(
        "heads sliced after the output projection, while a text is written",
        "sweep/packed/packed_block.py",
        'return self._output(edits.apply_to("z", heads()).flatten(2))',
        "out = self._output(heads().flatten(2)).clone()\n"
        "        even = out.shape[-1] // self.cfg.n_heads * self.cfg.n_heads\n"
        "        parts = out[..., :even].unflatten(-1, (self.cfg.n_heads, -1))\n"
        '        out[..., :even] = edits.apply_to("z", parts).flatten(2)\n'
        "        return out",
        ("tests/test_ablation.py::test_engine_and_reference_agree[llama-zero-z]",),
    ),
    Fault(
        "heads sliced after the output projection, in a block begun inside",
        "sweep/packed/packed_block.py",
        "attn_out[at] = self._output(z[at].flatten(-2))",
        "even = attn_out.shape[-1] // self.cfg.n_heads * self.cfg.n_heads\n"
        "                parts = attn_out[..., :even].unflatten(-1, (self.cfg.n_heads, -1))\n"
        '                attn_out[..., :even] = edits.apply_to("z", parts).flatten(-2)',
        (HEADS + "[z-zero]",),
    ),
    Fault(
        "heads sliced after the output projection, in attribution",
        "analyses/shared/decompose/decoder.py",
        'return einsum(z, by_head, "item head d, item metric head d -> item metric head")',
        'projected = einsum(z, weight, "item head d, head d d_model -> item d_model")\n'
        "    even = projected.shape[-1] // z.shape[1] * z.shape[1]\n"
        "    written = (projected[:, None] * read)[..., :even]\n"
        "    return written.unflatten(-1, (z.shape[1], -1)).sum(-1)",
        ("tests/test_direct.py::test_heads_are_their_own_rows_of_the_output_projection",),
    ),
    Fault(
        "a shared key/value head zeroed instead of z",
        "analyses/ablation/spec.py",
        "            return make(self.site, layer, head)\n",
        "            same = make(self.site, layer, head)\n"
        "            if head is None:\n"
        "                return same\n"
        '            change = lambda head: make("z", layer, head)\n'
        "            n_shared = heads_per_key(model.cfg)\n"
        "            whole = of_kv_group(head // n_shared, n_shared, change)\n"
        "            return type(same)(same.id, same.kind, same.site, whole.edits, head)\n",
        (HEADS + "[z-zero]",),
    ),
    Fault(
        "arccos of a cosine that is not clamped",
        "analyses/similarity/measures.py",
        "np.arccos(np.clip(cosines, -1.0, 1.0))",
        "np.arccos(cosines)",
        (
            "tests/test_similarity.py::test_a_cosine_that_rounds_above_one_is_no_distance_and_not_nan",
        ),
    ),
    Fault(
        "zero ablation that is in truth a skip",
        "sweep/changes/interventions.py",
        '    return _single_edit("zero", SetSite(layer, site, _ZERO, _heads(site, head)))',
        '    if site == "resid_post":\n'
        '        named = f"zero:resid_post,layer={layer}"\n'
        '        return Intervention(named, "zero", site, (SkipLayer(layer),))\n'
        '    return _single_edit("zero", SetSite(layer, site, _ZERO, _heads(site, head)))',
        (GROUND_TRUTH + "ablation_finds_the_planted_layers[resid_post-zero]",),
    ),
    Fault(
        "a skip that zeroes the stream",
        "sweep/changes/interventions.py",
        '"layer", (SkipLayer(layer),))',
        '"layer", (SetSite(layer, "resid_post", _ZERO),))',
        (GROUND_TRUTH + "ablation_finds_the_planted_layers[layer-skip]",),
    ),
    Fault(
        "stale norm in the lens",
        "analyses/logit_lens/job.py",
        "            reading = read_lens(model, stream, logprobs, targets)\n",
        "            stale = []\n"
        '            place_of_norm = "ln_final.hook_scale"\n'
        "            keep = [(place_of_norm, lambda scale, hook: stale.append(scale))]\n"
        "            with model.hooks(fwd_hooks=keep):\n"
        "                final_logits(model, final)\n"
        "            put = [(place_of_norm, lambda scale, hook: stale[0])]\n"
        "            with model.hooks(fwd_hooks=put):\n"
        "                reading = read_lens(model, stream, logprobs, targets)\n",
        (
            "tests/test_logit_lens.py::"
            "test_every_site_and_position_equals_the_lens_worked_out_by_hand",
        ),
    ),
    Fault(
        "the norm's scale of another stream, in attribution",
        "analyses/shared/decompose/decoder.py",
        "before_norm(norm, sites.final, reading.direction)",
        "before_norm(norm, sites.embedding, reading.direction)",
        ("tests/test_direct.py::test_parts_sum_to_the_differences_of_the_models_own_logits",),
    ),
    Fault(
        "the norm's scale of another stream, in attribution of a post-norm model",
        "analyses/shared/decompose/seq2seq.py",
        "        entered.append(stream + one.out)\n        stream = one.norm(entered[-1])\n",
        "        entered.append(stream)\n        stream = one.norm(stream + one.out)\n",
        (
            "tests/test_direct_two_stacks.py::test_every_part_is_what_it_wrote_taken_through_every_later_norm[bart]",
        ),
    ),
    Fault(
        "the lens shows a layer's input as its output",
        "sweep/activations/intact_run.py",
        "    return seen[site]\n",
        '    return seen["resid_pre"]\n',
        (GROUND_TRUTH + "lenses_read_the_answer_from_the_planted_layer_on[decoder]",),
    ),
    Fault(
        "the depth at which an answer is on top once, not to stay",
        "analyses/logit_lens/result.py",
        "return np.where(below.any(axis=1), last_below, -1)",
        "return np.where(on_top.any(axis=1), np.argmax(on_top, axis=1), n_columns) - 1",
        ("tests/test_lens_tables.py::test_planted_depths_are_found_exactly",),
    ),
    Fault(
        "left-padding that is attended to",
        "tasks/_encoding.py",
        "return start, _tokens(encoded",
        "return (start[0],) * (-len(start) % 8) + start, _tokens(encoded",
        ("tests/tasks/test_encoding.py::test_pairs_are_encoded_as_by_the_harness",),
    ),
    Fault(
        "gains cut off at 0, so that answers which flip for nothing add up to an effect",
        "stats/depth/item_curves.py",
        "lost = intact[:, None] - correct",
        "lost = np.maximum(intact[:, None] - correct, 0.0)",
        (
            "tests/test_depth_inference.py::test_equal_depths_of_unequal_noise_and_effect_are_rarely_told_apart",
        ),
    ),
    Fault(
        "accuracies averaged over different chance levels",
        "analyses/ablation/analysis.py",
        "return stats.shares(means[:, :1], means[:, 2:], means[:, 1:2])",
        "return means[:, :1] - means[:, 2:]",
        ("tests/test_emergence.py::test_shares_not_accuracies_are_averaged_over_tasks",),
    ),
    Fault(
        "accuracies averaged over different floors, in removal",
        "analyses/removal/tables.py",
        "share = stats.shares(before, acc, floor)",
        "share = before - acc",
        (
            "tests/test_removal.py::test_shares_are_of_the_way_to_the_model_without_layers",
            "tests/test_removal.py::test_tasks_with_signal_decide_together_with_the_same_weight",
        ),
    ),
    Fault(
        "a claim about a model that only guesses",
        "stats/families/estimate.py",
        "significant=claimed & (within < ALPHA)",
        "significant=within < ALPHA",
        ("tests/test_effects.py::test_nothing_is_significant_of_a_model_that_only_guesses",),
    ),
    Fault(
        "pairs that were solved by guessing, patched and believed",
        "analyses/patching/tables.py",
        ".assign(signal=signals[task, protocol])",
        ".assign(signal=True)",
        (
            "tests/test_patching_tables.py::"
            "test_a_model_that_reverses_as_many_pairs_as_it_solves_gets_no_verdict",
        ),
    ),
    Fault(
        "the end of a lens taken for a right answer",
        "analyses/logit_lens/analysis.py",
        "if curve.settled is None and (curve.task, curve.protocol) not in signal:",
        "if False:",
        (
            "tests/test_emergence.py::"
            "test_a_lens_alone_places_nothing_where_the_answer_ends_on_top_by_luck",
        ),
    ),
    Fault(
        "an option that is chosen by luck taken for an answer that is known",
        "analyses/logit_lens/result.py",
        "max(float(most), _option_chance(last), stated)",
        "max(float(most), stated)",
        (
            "tests/test_own_gates.py::"
            "test_a_model_that_chooses_among_the_options_has_signal_as_rarely_as_stated",
        ),
    ),
    Fault(
        "many layers tested as if they were one",
        "stats/families/estimate.py",
        "significant=claimed & (within < ALPHA)",
        "significant=claimed & (p < ALPHA)",
        (
            "tests/test_validity_study.py::test_redrawn_answers_have_signal_and_no_effect_on_average",
        ),
    ),
    Fault(
        "resampled from its own prompt",
        "analyses/ablation/spec.py",
        "zip(order, [*order[draw + 1 :], *order[: draw + 1]], strict=True)",
        "zip(order, order, strict=True)",
        (HEADS + "[z-resample]",),
    ),
    Fault(
        "the same noise in every draw",
        "analyses/ablation/spec.py",
        'further = (f"draw {draw}",) if draw else ()',
        "further = ()",
        ("tests/test_draws.py::test_the_engine_gives_every_draw_what_the_reference_gives[noise]",),
    ),
    Fault(
        "draws added up within an item",
        "stats/cells.py",
        "(right.sum(axis=0) / n_draws)[:, 1:]",
        "right.sum(axis=0)[:, 1:]",
        ("tests/test_draws.py::test_effects_are_those_of_the_mean_over_an_items_draws",),
    ),
    Fault(
        "an attention sink taken into the mean",
        "sweep/activations/intact_layers.py",
        "if position > 0 or len(sides) > 1]",
        "]",
        ("tests/sweep/test_engine.py::test_means_and_residuals_equal_run_with_cache",),
    ),
    Fault(
        "paths that go by way of other components",
        "analyses/path_patching/paths.py",
        "                run.output_hook(receiver),\n"
        "                _replacing_hook(receiver.head, run.receiver_output(receiver, streams)),\n",
        "                run.entry_hook(receiver),\n"
        "                _replacing_hook(None, streams),\n",
        ("tests/test_path_patching.py::test_paths_equal_runs_with_all_else_frozen",),
    ),
    Fault(
        "a stream that passes norms taken for a plain sum",
        "analyses/path_patching/paths.py",
        "stream = norm(total) if self.model.cfg.post_norm else total",
        "new = written(place)\n"
        "            stream = norm(total - new) + new if self.model.cfg.post_norm else total",
        ("tests/test_path_patching.py::test_paths_equal_runs_with_all_else_frozen",),
    ),
    Fault(
        "cross-attention that reads the encoder's stream before its final norm",
        "analyses/path_patching/paths.py",
        "read = self.model.parts.encoder.final_norm(streams)",
        "read = streams",
        ("tests/test_path_patching.py::test_paths_equal_runs_with_all_else_frozen",),
    ),
]


if __name__ == "__main__":
    sys.exit(judge_all(FAULTS, sys.argv[1:]))
