"""Sentences and figures of a distillation, against made-up answers."""

from __future__ import annotations

import numpy as np
import pytest

from layerwise.analyses.distillation.figures import training_curve
from layerwise.presentation.rows import rows
from layerwise.report import report
from layerwise.report.html import findings
from tests.distilling import distillation_result

FEW, SOME, MOST = (np.arange(40) < n for n in (8, 24, 38))


def distillation_claims(one):
    return [found for found in findings([one]) if found.kind == "distillation"]


def answers(student, distilled, teacher=MOST):
    return {"teacher": teacher, "student": student, "distilled": distilled}


def test_what_a_student_gained_is_told_with_its_share_of_the_teachers_lead():
    made = distillation_result({"keys": answers(FEW, SOME)})
    (claim,) = distillation_claims(made)
    assert "better than before in keys when it chooses: 60 % are right, 20 % were" in claim.short
    (row,) = made.gains().to_dict("records")
    share = "{:.0f} [{:.0f}, {:.0f}]".format(
        *(100 * row[name] for name in ("closed", "closed_low", "closed_high"))
    )
    assert f"{share} % of the teacher's lead" in claim.full
    assert claim.estimate[:3] == pytest.approx(
        [100 * row[name] for name in ("gain", "gain_run_low", "gain_run_high")]
    )
    assert (claim.evidence, claim.p, claim.items) == ("established", row["p_holm"], "40 items")


def test_what_a_student_lost_is_told():
    made = distillation_result({"a": answers(MOST, FEW), "b": answers(SOME, SOME)})
    (claim,) = distillation_claims(made)
    assert "worse than before in a when it chooses: 20 % are right, 95 % were" in claim.short
    assert "lead" not in claim.full


def test_where_nothing_is_established_it_is_said_how_little_that_excludes():
    made = distillation_result({"a": answers(SOME, np.roll(SOME, 1)), "b": answers(SOME, SOME)})
    (claim,) = distillation_claims(made)
    assert claim.evidence == "not established"
    assert claim.estimate.low < claim.estimate.value == 0 < claim.estimate.high


def test_sentences_stand_on_the_row_that_they_quote():
    made = distillation_result({"a": answers(FEW, SOME), "b": answers(MOST, FEW)})
    found = [one for one in findings([made]) if one.kind == "distillation"]
    assert len(found) == 2
    for one in found:
        quoted = rows(rows(made.gains(), **one.source["where"]), **one.source["at"])
        assert len(quoted) == 1


def test_the_page_has_the_table_and_the_curve():
    page = report([distillation_result({"keys": answers(FEW, SOME)})]).html
    assert "Distilled from a teacher" in page
    assert "What the student can do before and after" in page
    assert "KL(teacher, student) at temperature 1 on texts that it is not trained on" in page


CURVE = distillation_result({"keys": answers(FEW, SOME)}).distillation_curve


def test_the_curve_shows_what_is_in_the_table():
    curve = CURVE
    figure = training_curve(curve)
    lines = {line.get_gid(): line for line in figure.axes[0].get_lines()}
    measured = curve.loc[curve["held_out_kl"].notna()]
    np.testing.assert_allclose(lines["held_out_kl"].get_ydata(), measured["held_out_kl"])
    np.testing.assert_allclose(lines["held_out_kl"].get_xdata(), measured["step"])
    np.testing.assert_allclose(lines["divergence"].get_ydata(), curve["divergence"].dropna())
    many = curve.loc[curve["divergence"].notna()].sample(950, replace=True, random_state=0)
    many = many.assign(step=np.arange(1, 951), held_out_kl=None)
    drawn = training_curve(many).axes[0].get_lines()[0].get_ydata()
    assert len(drawn) == 100
    assert np.mean(drawn) == pytest.approx(many["divergence"].mean(), rel=0.02)
