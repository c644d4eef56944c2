"""The dashboard and the alert rules: they can be read, and ask only for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.docs.pages import page
from tests.support.processes.child import ROOT
from tests.unit.runtime.test_metrics import DOCS, names

FOLDER = ROOT / "docs" / "operations" / "monitoring"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
OF_HISTOGRAMS = re.compile(r"(?<=_seconds)_bucket$|(?<=_runs)_bucket$")


def metrics_of(expression: str) -> set[str]:
    found = re.findall(r"celery_safe_leader_\w+", expression)
    return {OF_HISTOGRAMS.sub("", name) for name in found}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_metrics_that_there_are(rule: dict[str, Any]) -> None:
    asked = metrics_of(rule["expr"])
    assert asked
    assert asked <= names()
    assert "by (election" in rule["expr"] or "by (le, election" in rule["expr"]
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_docs_say_what_to_do_for_each_alert() -> None:
    assert [row[0].strip("`") for row in page(DOCS).rows("alert")] == [r["alert"] for r in RULES]


def test_the_dashboard_asks_for_metrics_that_there_are_and_has_a_place_for_each_panel() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            assert metrics_of(target["expr"]) <= names(), panel["title"]
            assert target["expr"].count("(") == target["expr"].count(")")
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    shown = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in metrics_of(target["expr"])
    }
    assert len(shown) >= 14
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_each_alert_has_cases_in_which_it_fires_and_in_which_it_does_not() -> None:
    """They are run by the next test, which is a long one."""
    cases = {
        (case["alertname"], bool(case["exp_alerts"]))
        for group in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
        for case in group["alert_rule_test"]
    }
    fires = {name for name, does in cases if does}
    assert fires == {rule["alert"] for rule in RULES}
    # Two claim to lead in one election of that case, and in the other it is a handover.
    assert fires - {name for name, does in cases if not does} == {"TwoLeaders"}


@pytest.mark.long
@pytest.mark.parametrize("words", ["check rules alerts.yml", "test rules alerts_test.yml"])
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(words: str) -> None:
    tool = shutil.which("promtool")
    assert tool is not None, "promtool is not installed: make setup-long"
    done = subprocess.run([tool, *words.split()], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
