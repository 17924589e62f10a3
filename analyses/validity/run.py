"""Make the saved results and figures again: ``PYTHONPATH=. python analyses/validity/run.py``.

Each table is made by a function of a part's module; add a method by adding one.
"""

from __future__ import annotations

from pathlib import Path

import crossing_claims
import depth_candidates
import depth_curves
import depth_grid
import guesser_claims
import guessing
import head_claims
import interaction_claims
import layer_claims
import lens_claims
import null_models
import order_claims
import overview
import planted
import planted_seq2seq
import published_claims
import scoring_claims
import sentences
import sequential_claims
import sequential_work
import stated_claims
import text_claims
import trained
import trained_claims
import trained_methods
import tuned
import validity_figures
import weak_interactions

RESULTS = Path(__file__).parent / "results"
TABLES = {
    "planted": (planted.measure, planted.exact_matches),
    "planted_seq2seq": (planted_seq2seq.measure, planted.exact_matches),
    "trained_layers": (trained.layers, trained.planted_and_found),
    "trained_depths": (trained.depths, lambda table: table),
    "trained_methods": (trained_methods.measure, trained_methods.expected_counts),
    "nothing": (null_models.measure, null_models.false_claim_rates),
    "nothing_methods": (guessing.measure, guessing.claim_rates),
    "tuned_layers": (tuned.layers, lambda table: table),
    "tuned_readings": (tuned.readings, tuned.reading_extremes),
    "tuned_depths": (tuned.depths, lambda table: table),
    "tuned_untrained": (tuned.untrained_rows, tuned.untrained_summary),
    "depth_intervals": (depth_grid.intervals, depth_grid.worst_cells),
    "depth_orders": (depth_grid.orders, depth_grid.worst_cells),
    "depth_candidates": (depth_candidates.measure, lambda table: table),
    "layer_claims": (layer_claims.false_rates, lambda table: table),
    "layer_power": (layer_claims.power, lambda table: table),
    "crossing_claims": (crossing_claims.false_rates, lambda table: table),
    "crossing_power": (crossing_claims.power, lambda table: table),
    "layer_gains": (layer_claims.gain_rates, lambda table: table),
    "order_claims": (order_claims.order_rates, lambda table: table),
    "order_rules": (order_claims.earlier_rates, lambda table: table),
    "lens_claims": (lens_claims.lens_rates, lambda table: table),
    "published_claims": (published_claims.verdict_rates, lambda table: table),
    "text_claims": (text_claims.text_verdict_rates, lambda table: table),
    "trained_claims": (trained_claims.trained_rates, lambda table: table),
    "sequential_claims": (sequential_claims.false_rates, lambda table: table),
    "sequential_crossings": (sequential_work.crossing_power, lambda table: table),
    "sequential_saved": (sequential_work.work_saved, lambda table: table),
    "head_set_claims": (head_claims.head_verdict_rates, lambda table: table),
    "stated": (stated_claims.rates, lambda table: table),
    "scoring_gaps": (scoring_claims.gap_rates, lambda table: table),
    "weak_interactions": (weak_interactions.rates, lambda table: table),
    "guesser_claims": (guesser_claims.signal_rates, lambda table: table),
    "interaction_claims": (interaction_claims.claim_rates, lambda table: table),
    "sentences": (sentences.measure, sentences.false_sentence_rates),
    "depth_curves": (depth_curves.measure, depth_curves.worst_rates),
}


def main() -> None:
    """Measure all parts, save their tables, draw them, and tell all in one table."""
    RESULTS.mkdir(exist_ok=True)
    for name, (measure, told) in TABLES.items():
        table = measure()
        table.to_parquet(RESULTS / f"{name}.parquet", index=False)
        print(told(table).to_string(index=False), flush=True)
    validity_figures.draw(RESULTS)
    print(overview.table(RESULTS))


if __name__ == "__main__":
    main()
