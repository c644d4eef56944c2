"""Apps that are written for workers and imported by tests: what they leave in this process."""

from __future__ import annotations

from pathlib import Path

from celery_safe_leader import signals
from tests.support.celery.workers import import_app


def test_receivers_of_an_imported_app_are_not_called_here(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from celery_safe_leader.signals import leader_elected\n"
        "CALLED = []\n"
        "@leader_elected.connect\n"
        "def receive(**fields):\n"
        "    CALLED.append(fields)\n"
    )
    app = import_app(tmp_path)
    signals.leader_elected.send("beat@here", fencing_token=1)
    assert app.CALLED == []
    app.receive(fencing_token=2)
    assert app.CALLED == [{"fencing_token": 2}]
