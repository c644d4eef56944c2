"""``leader check``: whether all is well, line by line, with what to do."""

from __future__ import annotations

import click

from celery_safe_leader._operations.health.election_findings import election_findings
from celery_safe_leader._operations.health.finding import Finding, Grade
from celery_safe_leader._operations.health.server_findings import server_findings
from celery_safe_leader._operations.output import plain, print_json
from celery_safe_leader._operations.pause_commands import as_json_option
from celery_safe_leader._operations.status_command import KeyStatus, read_status
from celery_safe_leader._operations.target import Target, pass_target

__all__ = ["check", "look"]

_SIGNS = {Grade.GOOD: "✓", Grade.DOUBTFUL: "!", Grade.BAD: "✗"}
_SUBJECT = 20
"""Width of the first column."""


@click.command()
@as_json_option
@pass_target
def check(target: Target, as_json: bool) -> int:
    """Check settings, server, elections and ledger, and say what to do. Changes nothing.

    With `celery -A proj leader` also what the app's settings, its workers and this machine show:
    the workers are asked over the broker, which takes a second.

    Exits with 0 if nothing is wrong (lines with ! may be meant), with 1 if something is, and with 2
    if Redis does not answer.
    """
    status, findings = look(target)
    if as_json:
        fields = {"key": target.key, "findings": [_fields(each) for each in findings]}
        print_json("check", status.server.now_us, fields)
    else:
        click.echo(f"{plain(target.key)} at {plain(target.server)}")
        for each in findings:
            click.echo(f"{_SIGNS[each.grade]} {each.subject:<{_SUBJECT}}{plain(each.text, 400)}")
            if each.advice:
                click.echo(f"  {'':<{_SUBJECT}}→ {plain(each.advice, 400)}")
    return 1 if any(each.grade is Grade.BAD for each in findings) else 0


def look(target: Target) -> tuple[KeyStatus, list[Finding]]:
    """Return how a key stands, and all that is to be said of it.

    Raises:
        StoreError: Redis does not answer, or refuses.
    """
    client = target.connect()
    try:
        status = read_status(target, None, wait=True)
        ttl = target.ttl if target.ttl is not None else _ttl(status)
        findings = list(server_findings(client, ttl, target.wait_replicas))
    finally:
        client.close()
    findings += election_findings(status)
    if target.app_findings is not None:
        findings += target.app_findings()
    return status, findings


def _ttl(status: KeyStatus) -> float | None:
    return min((e.view.record.ttl for e in status.elections if e.view.record), default=None)


def _fields(finding: Finding) -> dict[str, str | None]:
    return {
        "grade": finding.grade.value,
        "subject": finding.subject,
        "text": finding.text,
        "advice": finding.advice or None,
    }
