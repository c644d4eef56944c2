"""The judge of the fault table has to see an overlap where there is one."""

from __future__ import annotations

from tests.support.candidates.tenures import Tenure, overlaps


def test_two_processes_that_lead_at_one_instant_overlap():
    one, other = Tenure("a", 1, 1.0, 3.0), Tenure("b", 2, 2.9, 4.0)
    assert overlaps([one, other]) == [(one, other)]


def test_a_short_tenure_within_a_long_one_overlaps():
    one, other = Tenure("a", 1, 1.0, 9.0), Tenure("b", 2, 4.0, 4.1)
    assert overlaps([other, one]) == [(other, one)]


def test_one_after_the_other_is_no_overlap():
    assert overlaps([Tenure("a", 1, 1.0, 3.0), Tenure("b", 2, 3.1, 4.0)]) == []


def test_a_process_does_not_overlap_with_itself():
    assert overlaps([Tenure("a", 1, 1.0, 3.0), Tenure("a", 2, 2.0, 4.0)]) == []


def test_a_single_yes_that_took_its_time_is_no_certain_instant():
    # Asked at 5.0, answered at 1.0 before: the yes was somewhere in between, nobody knows where.
    assert overlaps([Tenure("a", 1, 5.0, 1.0), Tenure("b", 2, 0.0, 9.0)]) == []
