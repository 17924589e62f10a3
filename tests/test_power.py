"""What items can establish: against enumeration of all outcomes, simulation, and a plan."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multinomial
from statsmodels.stats.contingency_tables import mcnemar

from layerwise.planning.plan import plan_run
from layerwise.stats import mcnemar_p_values
from layerwise.stats.power import detectable_loss, power_of_mcnemar
from tests.analysis import word_task
from tests.models.tiny import tiny_model


@pytest.mark.parametrize("n", [10, 24, 40])
@pytest.mark.parametrize("level", [0.05, 0.05 / 30])
@pytest.mark.parametrize(("loss", "gained"), [(0.2, 0.05), (0.5, 0.0), (0.0, 0.1), (0.9, 0.05)])
def test_power_is_that_of_all_outcomes_under_the_test_of_statsmodels(n, level, loss, gained):
    total = 0.0
    cells = [gained + loss, gained, 1 - 2 * gained - loss]
    for lost in range(n + 1):
        for got in range(min(lost, n - lost + 1)):  # a loss: more is lost than gained
            p = mcnemar([[0, lost], [got, 0]], exact=True).pvalue
            if p < level:
                total += multinomial.pmf([lost, got, n - lost - got], n, np.clip(cells, 0, 1))
    assert power_of_mcnemar(loss, n, level, gained) == pytest.approx(total, abs=1e-9)


def test_the_smallest_loss_is_found_in_eight_of_ten_samples():
    rng, level = np.random.default_rng(0), 0.05 / 30
    loss = detectable_loss(100, level)
    assert loss is not None
    drawn = rng.multinomial(100, [0.05 + loss, 0.05, 0.9 - loss], size=20_000)
    found = mcnemar_p_values(drawn[:, 0], drawn[:, 1]) < level
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_more_items_and_fewer_tests_and_flips_establish_smaller_losses():
    def of(n: int, layers: int = 30, gained: float = 0.05) -> float:
        found = detectable_loss(n, 0.05 / layers, gained)
        assert found is not None
        return found

    assert of(400) < of(100) < of(40)
    assert of(100, layers=1) < of(100, layers=450)
    assert of(100, gained=0.0) < of(100, gained=0.15)
    assert detectable_loss(6, 0.05 / 30) is None
    assert detectable_loss(0, 0.05) is None


def test_a_plan_says_what_its_items_can_establish():
    plan = plan_run(tiny_model("llama"), word_task(40), ["letter"], untimed=True)
    (note,) = [note for note in plan.notes if "found in" in note]
    n_layers = plan.rows[0].cost.interventions
    layers = [m for m in range(1, n_layers + 1) if f"{m} layers" in note]
    assert len(layers) == 1
    loss = detectable_loss(40, 0.05 / layers[0])
    assert loss is not None
    assert f"With 40 items a loss of {100 * loss:.0f} points" in note


def test_a_plan_says_where_no_loss_can_be_established():
    plan = plan_run(tiny_model("llama"), word_task(5), ["letter"], untimed=True)
    assert any("With 5 items no loss, however large, would be found" in note for note in plan.notes)
