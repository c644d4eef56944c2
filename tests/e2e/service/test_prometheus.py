"""A real Prometheus scrapes beats that are killed, and judges by the rules of the docs."""

from __future__ import annotations

import http.client
import json
import shutil
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service.test_health import SCHEDULE, wait_for
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.network.ports import free_port
from tests.support.processes import Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server

RULES = ROOT / "docs" / "operations" / "monitoring" / "alerts.yml"
CONFIG = """
global: {{ scrape_interval: 500ms, evaluation_interval: 500ms }}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: leader
    static_configs: [{{ targets: {targets} }}]
"""


class Prometheus:
    def __init__(self, children: Children, folder: Path, ports: list[int]) -> None:
        program = shutil.which("prometheus")
        assert program is not None, "prometheus is not installed: make setup-long"
        self._port = free_port()
        config = folder / "prometheus.yml"
        # So that a rule that waits for 30 s fires within the test.
        rules = folder / "alerts.yml"
        rules.write_text(RULES.read_text().replace("for: 30s", "for: 1s"))
        targets = json.dumps([f"127.0.0.1:{port}" for port in ports])
        config.write_text(CONFIG.format(rules=rules, targets=targets))
        children.start(
            [
                program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ]
        )  # fmt: skip

    def get(self, path: str) -> Any:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            client.request("GET", path)
            answer = json.loads(client.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            client.close()
        return answer.get("data")

    def value(self, query: str) -> float | None:
        """Return the one value of a query; ``None`` for none."""
        data = self.get(f"/api/v1/query?query={urllib.parse.quote(query)}")
        found = data["result"] if data else []
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        alerts = (self.get("/api/v1/alerts") or {}).get("alerts", [])
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}


@pytest.mark.long
def test_what_it_counts_is_what_the_queue_holds_over_a_crash_and_an_alert_fires(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    leave_resigned(valkey_server.url, "shop", "beat")
    beats, ports = [], [free_port(), free_port()]
    for number, port in enumerate(ports):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        write_app(
            folder, valkey_server.url, SCHEDULE, leader_ttl=2.0, leader_wait=0.2,
            leader_http=f"127.0.0.1:{port}",
        )  # fmt: skip
        beats.append(Beat(children, folder, name=f"{number}"))
    prometheus = Prometheus(children, tmp_path, ports)
    first = leader_of(lambda: beats, 60)
    leads = "sum(celery_safe_leader_is_leader)"
    wait_until(lambda: prometheus.value(leads) == 1, 60, "the first scrapes")
    rules = prometheus.get("/api/v1/rules")["groups"][0]["rules"]
    wait_until(
        lambda: (
            {r["health"] for r in prometheus.get("/api/v1/rules")["groups"][0]["rules"]} == {"ok"}
        ),
        30,
        lambda: str(rules),
    )
    assert len(rules) >= 7

    client: Any = valkey_server.client()
    counted = "sum(max_over_time(celery_safe_leader_runs_published_total[1h]))"

    def all_counted(queued: int) -> bool:
        return prometheus.value(counted) == queued

    def agree() -> bool:
        # Between two runs, and after a scrape.
        queued = client.llen("celery")
        return bool(queued > 3 and all_counted(queued) and client.llen("celery") == queued)

    wait_until(agree, 60, lambda: f"{client.llen('celery')}, {prometheus.value(counted)}")
    first.kill()
    (second,) = (beat for beat in beats if beat is not first)
    leader_of(lambda: [second], 60)
    wait_until(lambda: prometheus.value(leads) == 1, 60, "the second one")
    # What the first one published and nobody scraped before it was killed is missing.
    queued = client.llen("celery")
    wait_until(lambda: client.llen("celery") > queued + 3, 60)
    assert client.llen("celery") - (prometheus.value(counted) or 0) <= 6

    assert "LeaderMissing" not in prometheus.firing()
    valkey_server.stop()
    wait_for(ports[beats.index(second)], "/leader", 503)
    wait_until(lambda: "LeaderMissing" in prometheus.firing(), 60, "the alert")
