"""Which releases are tried together, and with which tests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CELERY", "DJANGO", "LIBRARY", "REDIS", "ROWS", "TESTS", "Row", "grid", "left_out"]

CELERY = {
    "5.4": ("5.4.0", "5.4.2"),
    "5.5": ("5.5.3", "5.5.4"),
    "5.6": ("5.6.3", "5.6.2"),
    "5.7": ("5.7.0", "5.7.0"),
}
"""Minor release -> Celery and kombu, as in a lock file of that time. Exact, so that pip does not
search through all others before it refuses."""
REDIS = ("5", "6", "7", "8")
"""Major releases of redis-py."""
STORES = ["celery-redbeat>=2.2", "django-celery-beat>=2.6"]
"""What the mixin is tried with. The rows of a Django do without: django-celery-beat takes its time
to allow a new one."""


@dataclass(frozen=True)
class Row:
    """One set of releases."""

    name: str
    celery: str
    """``==`` follows by itself: ``5.4.*`` or ``5.4.0``."""
    kombu: str
    redis: str
    python: str = ""
    """Such as ``3.12``; empty for the Python that runs this."""
    extra: bool = True
    """Whether Celery's own extra ``redis`` has to agree. RabbitMQ's users do without."""
    library: bool = False
    """Whether only what needs no Celery is run: Celery's own use of Redis does not work there."""
    django: str = ""
    """Such as ``==4.2.*``: only the tests of Django are run, with this one."""

    @property
    def chosen(self) -> list[str]:
        """What is run."""
        if self.django:
            return DJANGO
        return LIBRARY if self.library else TESTS

    @property
    def requirements(self) -> list[str]:
        """For pip."""
        extra = "[redis]" if self.extra else ""
        # kombu's is named too: pip would look for another kombu with a more lenient extra.
        wanted = [f"celery{extra}=={self.celery}", f"kombu{extra}=={self.kombu}"]
        more = [f"django{self.django}"] if self.django else STORES
        return [*wanted, f"redis=={self.redis}", *more]


def _pair(celery: str, redis: str, *, python: str = "") -> Row:
    name = f"celery{celery}-redis{redis}" + (f"-py{python}" if python else "")
    return Row(name, *CELERY[celery], f"{redis}.*", python)


def grid() -> list[Row]:
    """Return every Celery with every redis-py; pip refuses many of these pairs."""
    return [_pair(celery, redis) for celery in CELERY for redis in REDIS]


ROWS: list[Row] = [
    *grid(),
    # The extra does not count for those whose Redis is for the election alone.
    Row("celery5.4-redis8-no-extra", *CELERY["5.4"], "8.*", extra=False, library=True),
    Row("celery5.7-redis5-no-extra", *CELERY["5.7"], "5.*", extra=False, library=True),
    # The lowest of everything that pyproject.toml and Celery 5.4 allow.
    Row("lowest", "5.4.0", "5.3.4", "5.0.1", extra=False),
    # What pip chooses today for those who hold Celery back.
    Row("celery5.4-kombu-newest", "5.4.*", "5.*", "5.*"),
    # Other Pythons: the newest releases on each, the oldest on the oldest.
    _pair("5.4", "5", python="3.10"),
    _pair("5.7", "8", python="3.10"),
    _pair("5.7", "8", python="3.12"),
    _pair("5.7", "8", python="3.13"),
    # The oldest Django, and the newest of all, which Python 3.11 does not get: all other tests have
    # the newest that it does.
    Row("django4.2", *CELERY["5.7"], "8.*", django="==4.2.*"),
    Row("django-newest", *CELERY["5.7"], "8.*", python="3.13", django=">=6"),
]

_ACCEPTANCE = "tests/integration/worker/test_acceptance.py::test_"
_ELECTION = "tests/e2e/worker/test_election.py::test_"
_LEADER_ONLY = "tests/e2e/worker/test_leader_only.py::test_"
TESTS: list[str] = [
    "tests/unit/store/test_client.py",  # clients, also of the caller's
    "tests/unit/publishing",
    "tests/unit/schedules",  # clocks and zones are those of the installed Celery
    "tests/unit/worker",
    "tests/unit/runtime/test_board.py",
    "tests/unit/beat",  # what is overridden in schedulers among it
    "tests/unit/settings",
    "tests/contract/test_stores.py",
    "tests/contract/test_ledger_write.py",
    "tests/contract/test_public_surface.py",  # settings, commands, classes derived from Celery's
    "tests/integration/connections/test_acl.py",  # what clients send by themselves, too
    "tests/integration/connections/test_client.py",
    "tests/integration/connections/test_tls.py",
    "tests/integration/library/test_lifecycle.py",  # the election
    "tests/integration/library/test_signals.py",
    "tests/e2e/beat/test_least_privilege.py",
    "tests/e2e/beat/test_two_signals.py",
    "tests/e2e/beat/test_user_code_and_its_app.py",
    "tests/integration/connections/test_key_prefix.py",
    # Beat with its ledger: what other people's schedules, entries, receivers and schedulers do,
    # beside what the installed stock beat makes of it.
    *(
        f"tests/integration/beat/test_{name}.py"
        for name in (
            *("changed_schedules", "early_messages", "entries_sent_by_others", "expiry", "mixin"),
            *("mixin_attempts", "mixin_fan_out", "own_schedules", "own_way", "publication"),
            *("refused_messages", "scheduler", "signals_of_beats", "user_code_that_hangs"),
            "wrong_entries",
        )
    ),
    "tests/integration/beat/test_standing_down.py::"
    "test_user_code_finds_its_app_in_the_thread_that_dispatches",
    "tests/integration/publishing/test_brokers.py",
    "tests/integration/publishing/test_collected.py",
    "tests/integration/publishing/test_faults.py",  # what no queue is bound to, among it
    "tests/integration/publishing/test_probe.py",
    "tests/integration/publishing/test_transports.py",
    # A worker drops a second publication.
    f"{_ACCEPTANCE}a_second_publication_is_dropped_and_the_first_comes_through_as_often_as_it_comes",
    f"{_ACCEPTANCE}a_redelivery_after_a_crash_runs_and_a_second_publication_does_not",
    f"{_ACCEPTANCE}a_worker_that_reconnects_is_still_guarded",
    f"{_ACCEPTANCE}chains_and_chords_go_on_once",
    f"{_ACCEPTANCE}messages_of_protocol_1_and_strategies_of_a_task_s_own_are_guarded_too",
    "tests/e2e/worker/test_dedup.py",
    # Workers elect a leader, which alone runs leader-only tasks.
    f"{_ELECTION}one_worker_leads_and_hands_over_when_it_is_told_to_end",
    f"{_ELECTION}consumption_outlives_a_lost_connection",
    f"{_ELECTION}the_leader_queue_is_not_among_those_that_a_worker_consumes_by_itself",
    f"{_LEADER_ONLY}every_form_of_the_decorator_runs_on_the_leader_only",
    f"{_LEADER_ONLY}pool_children_that_were_spawned_see_the_leadership",
    f"{_LEADER_ONLY}calls_by_name_alone_are_forwarded",
    f"{_LEADER_ONLY}chords_and_chains_end_whatever_becomes_of_their_members",
]
"""What must hold with each release: the rest of the tests is about our code alone."""

LIBRARY: list[str] = [
    "tests/unit/store/test_client.py",
    "tests/contract/test_stores.py",
    "tests/contract/test_ledger_write.py",
    "tests/integration/connections/test_client.py",
    "tests/integration/library/test_lifecycle.py",
    "tests/integration/library/test_signals.py",
]
"""What of it needs no Celery."""

DJANGO: list[str] = ["tests/integration/django"]
"""The admin's page and the system checks."""

_SLOW_RESTORE = (
    f"{_ACCEPTANCE}a_redelivery_after_a_crash_runs_and_a_second_publication_does_not[redis]"
)


def left_out(releases: dict[str, str]) -> list[str]:
    """Return tests that cannot run with these releases, for a reason that is none of ours.

    Args:
        releases: What is installed: package -> release.
    """
    kombu = tuple(int(part) for part in releases["kombu"].split(".")[:2])
    # Before 5.7 the time until Redis gives a dead worker's message to another cannot be set: it
    # is 100 s.
    return [_SLOW_RESTORE] if kombu < (5, 7) else []
