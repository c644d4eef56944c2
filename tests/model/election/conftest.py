"""Servers of the model: three for the whole run, emptied before each history."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model.election.fleet import Fleet
from tests.model.election.sites import Sites, started_sites


@pytest.fixture(scope="session")
def sites() -> Iterator[Sites]:
    """Three servers, the first of which is the master."""
    with started_sites() as started:
        yield started


@pytest.fixture
def fleet(sites: Sites) -> Fleet:
    """Candidates that are moved by hand; the judge raises at the first broken promise."""
    return Fleet(sites)
