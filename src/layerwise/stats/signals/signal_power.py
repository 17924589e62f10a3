"""How many items would show that a model does better than guessing."""

from __future__ import annotations

import math

from .power import POWER
from .signal import LEVEL


def items_for_signal(
    accuracy: float, chance: float, controls: list[float], n_cells: int
) -> int | None:
    """About how many items show signal in 8 of 10 samples, if accuracies stay as they are."""
    # The normal approximation of the binomial test against chance, with its continuity correction
    # (Fleiss, Tytun and Ury 1980, Biometrics 36), and of the difference from each measured control,
    # at the level of Holm's first step; the largest number counts. It is rounded up to two digits.
    from scipy.stats import norm

    if accuracy <= max([chance, *controls]):
        return None
    level, power = (float(norm.isf(one)) for one in (LEVEL / max(n_cells, 1), 1 - POWER))
    own = accuracy * (1 - accuracy)
    lead = accuracy - chance
    plain = ((level * math.sqrt(chance * (1 - chance)) + power * math.sqrt(own)) / lead) ** 2
    wanted = [plain / 4 * (1 + math.sqrt(1 + 2 / (plain * lead))) ** 2 if plain else 0.0]
    wanted += [
        (level + power) ** 2 * (own + control * (1 - control)) / (accuracy - control) ** 2
        for control in controls
    ]
    # So many items must differ before an exact paired test can reach the level at all.
    differ = math.log2(max(n_cells, 1) / LEVEL)
    wanted += [differ / (accuracy - control) for control in controls]
    n = max(math.ceil(max(wanted)), 1)
    step = 10 ** max(len(str(n)) - 2, 0)
    return -(-n // step) * step
