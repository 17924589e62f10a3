"""Token-passes of sweeps over sets of skipped layers, from their plans: no model, nothing timed.

Against a hooked forward through all layers, and one through the layers that are left, for each
set and request. Requests have distinct contexts, so that items share nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from measuring import markdown

from layerwise.sweep import LogLikelihood, skip_layers
from layerwise.sweep.plans.plan import ModelShape, plan_sweep

N_LAYERS, REMOVED, ITEMS, CONTEXT, CONTINUATION = 30, 8, 8, 96, 8
SHAPE = ModelShape(n_layers=N_LAYERS, d_model=576, d_kv=192, itemsize=4, n_ctx=2048)


def counts(steps: Iterable[Sequence[Sequence[int]]]) -> tuple[int, int, int]:
    """Token-passes of one sweep a step: by the engine, hooked, pruned."""
    drawn = random.Random(0)
    requests = [
        LogLikelihood(
            tuple(drawn.randrange(1000) for _ in range(CONTEXT)), tuple(range(CONTINUATION))
        )
        for _ in range(ITEMS)
    ]
    engine = hooked = pruned = 0
    for sets in steps:
        plan = plan_sweep([skip_layers(layers) for layers in sets], requests, SHAPE, 2**40)
        engine += plan.token_passes
        hooked += plan.brute_force_token_passes
        kept = sum(N_LAYERS - len(layers) for layers in sets)
        pruned += kept * ITEMS * (CONTEXT + CONTINUATION - 1)
    return engine, hooked, pruned


def greedy() -> Iterable[list[list[int]]]:
    """Each step tries all layers that remain; which one goes is drawn, for it costs the same."""
    drawn, removed = random.Random(0), []
    for _ in range(REMOVED):
        remaining = [layer for layer in range(N_LAYERS) if layer not in removed]
        yield [[*removed, layer] for layer in remaining]
        removed.append(drawn.choice(remaining))


def main() -> None:
    """Print the table."""
    blocks = [
        [list(range(start, start + size)) for start in range(N_LAYERS - size + 1)]
        for size in range(1, REMOVED + 1)
    ]
    pairs = [[one, other] for one in range(N_LAYERS) for other in range(one + 1, N_LAYERS)]
    work = {
        f"an order of {REMOVED} layers, greedy: each step tries all that remain": greedy(),
        f"the best block of each size from 1 to {REMOVED}": blocks,
        f"all {len(pairs)} pairs": [pairs],
    }
    head = "work|token-passes|hooked|pruned|fewer than hooked|than pruned"
    rows = []
    for name, steps in work.items():
        engine, hooked, pruned = counts(steps)
        found = (f"{n:,}" for n in (engine, hooked, pruned))
        rows.append([name, *found, f"{hooked / engine:.1f}", f"{pruned / engine:.1f}"])
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
