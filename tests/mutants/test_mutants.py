"""That every mutant still fits the code, is in the table, and is named after a test that exists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.mutants.__main__ import TABLE, judge
from tests.mutants.catalogue import MUTANTS, TWO_LEAD, Mutant, Patch, PatchError
from tests.support.processes.child import ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_applies_to_the_code_and_compiles(mutant: Mutant, tmp_path: Path) -> None:
    for patch in mutant.patches:
        target = tmp_path / patch.file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / patch.file, target)
        patch.apply(tmp_path)
        if target.suffix == ".py":
            compile(target.read_text(encoding="utf-8"), patch.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_is_in_the_table_with_its_tests(mutant: Mutant) -> None:
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if mutant.name in line]
    assert rows, f"{mutant.name!r} is not in {TABLE.name}: run `make mutants`"
    assert mutant.breaks in rows[0]
    for test in mutant.tests:
        assert test.partition("::")[2] in rows[0]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_names_tests_that_exist(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_the_table_has_no_other_rows() -> None:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and "---" not in line]
    assert len(rows) == len(MUTANTS) + 1  # and the heading
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_patch_that_does_not_fit_says_so(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("one two two")
    for old, count in (("three", 0), ("two", 2)):
        with pytest.raises(PatchError, match=f"file.py has {count} times, not once"):
            Patch("file.py", old, "x").apply(tmp_path)
    assert (tmp_path / "file.py").read_text() == "one two two"
    Patch("file.py", "one", "x").apply(tmp_path)
    assert (tmp_path / "file.py").read_text() == "x two two"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({}, "f.py::test_a did not run"),
        ({"f.py::test_ab": TWO_LEAD}, "f.py::test_a did not run"),
        ({"f.py::test_a": ""}, "f.py::test_a did not fail"),
        ({"f.py::test_a[x]": TWO_LEAD, "f.py::test_a[y]": ""}, "f.py::test_a[y] did not fail"),
        ({"f.py::test_a": "KeyError"}, "f.py::test_a failed without saying"),
        ({"f.py::test_a": f"Violation: {TWO_LEAD}: a and b"}, ""),
    ],
)
def test_a_mutant_counts_as_caught_only_for_the_right_reason(
    said: dict[str, str], problem: str
) -> None:
    outcome = judge(Mutant("name", "breaks", (), ("f.py::test_a",)), said)
    assert outcome.startswith(problem)
    assert bool(outcome) == bool(problem)
