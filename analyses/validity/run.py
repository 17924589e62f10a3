"""Make the saved results and figures again: ``PYTHONPATH=. python analyses/validity/run.py``.

Each table is made by a function of a part's module; add a method by adding one.
"""

from __future__ import annotations

from pathlib import Path

import crossing_claims
import depth_candidates
import depth_curves
import depth_grid
import guessing
import layer_claims
import lens_claims
import nothing
import order_claims
import overview
import planted
import planted_seq2seq
import published_claims
import scoring_claims
import sentences
import shown
import stated
import trained
import tuned
import weak_interactions
import within_trained

RESULTS = Path(__file__).parent / "results"
TABLES = {
    "planted": (planted.measure, planted.told),
    "planted_seq2seq": (planted_seq2seq.measure, planted.told),
    "trained_layers": (trained.layers, trained.told),
    "trained_depths": (trained.depths, lambda table: table),
    "trained_methods": (within_trained.measure, within_trained.told),
    "nothing": (nothing.measure, nothing.told),
    "nothing_methods": (guessing.measure, guessing.told),
    "tuned_layers": (tuned.layers, lambda table: table),
    "tuned_readings": (tuned.readings, tuned.told),
    "tuned_depths": (tuned.depths, lambda table: table),
    "tuned_untrained": (tuned.untrained, tuned.told_untrained),
    "depth_intervals": (depth_grid.intervals, depth_grid.told),
    "depth_orders": (depth_grid.orders, depth_grid.told),
    "depth_candidates": (depth_candidates.measure, lambda table: table),
    "layer_claims": (layer_claims.false_rates, lambda table: table),
    "layer_power": (layer_claims.power, lambda table: table),
    "crossing_claims": (crossing_claims.false_rates, lambda table: table),
    "crossing_power": (crossing_claims.power, lambda table: table),
    "layer_gains": (layer_claims.gain_rates, lambda table: table),
    "order_claims": (order_claims.order_rates, lambda table: table),
    "order_rules": (order_claims.earlier_rates, lambda table: table),
    "lens_claims": (lens_claims.lens_rates, lambda table: table),
    "stated": (stated.rates, lambda table: table),
    "published_claims": (published_claims.verdict_rates, lambda table: table),
    "scoring_gaps": (scoring_claims.gap_rates, lambda table: table),
    "weak_interactions": (weak_interactions.rates, lambda table: table),
    "sentences": (sentences.measure, sentences.told),
    "depth_curves": (depth_curves.measure, depth_curves.told),
}


def main() -> None:
    """Measure all parts, save their tables, draw them, and tell all in one table."""
    RESULTS.mkdir(exist_ok=True)
    for name, (measure, told) in TABLES.items():
        table = measure()
        table.to_parquet(RESULTS / f"{name}.parquet", index=False)
        print(told(table).to_string(index=False), flush=True)
    shown.draw(RESULTS)
    print(overview.table(RESULTS))


if __name__ == "__main__":
    main()
