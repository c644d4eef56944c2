"""LeaderSchedulerMixin over a scheduler with a store of its own, in this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import Celery
from celery.beat import BeatLazyFunc, PersistentScheduler, Scheduler
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.schedulers import LeaderSchedulerMixin
from tests.support.network.proxy import Proxy
from tests.support.processes import Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

TTL = 0.6
BY_STOCK = True if celery.VERSION >= (5, 7) else None
"""The header ``celery_beat_task`` of stock beat."""


LOSING: list[Any] = []


def lose_leadership() -> int:
    LOSING.pop()._leader_mixin.membership.rest()
    return 1


def read_prices() -> None:
    raise FileNotFoundError("no such file: prices.csv")


class FileScheduler(LeaderSchedulerMixin, PersistentScheduler):
    """Counts what is called."""

    longest_silence = 0.5

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label = "from the constructor"
        self.calls: list[str] = []
        self.fails: Exception | None = None
        self.hangs: threading.Event | None = None

    def setup_schedule(self) -> None:
        self.calls = [*self.calls, "setup"]
        self.added_by_the_tenure = True
        if self.fails is not None:
            raise self.fails
        if self.hangs is not None:
            self.hangs.wait(10)
        super().setup_schedule()


@pytest.fixture
def make(quick_server: Server, key: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def build(entries: dict[str, Any] | None = None, **settings: Any) -> Any:
        app = Celery(key, set_as_current=False)
        app.conf.update(
            broker_url=quick_server.url,
            leader_url=quick_server.url,
            leader_ttl=TTL,
            leader_wait=0.1,
            task_default_queue=key,
            result_expires=None,
            beat_schedule=entries or {},
        )
        app.conf.update(settings)
        scheduler = FileScheduler(app, schedule_filename=str(tmp_path / "entries"))
        made.append(scheduler)
        return scheduler

    yield build
    for scheduler in made:
        scheduler.close()
    quick_server.client().delete(key)


def constructed_with(scheduler: Any, **attributes: Any) -> None:
    """Set attributes as if the constructor had done it: others do not outlast a tenure."""
    vars(scheduler).update(attributes)
    scheduler._leader_mixin.keep_attributes(vars(scheduler))


def tick_until(scheduler: Any, ready: Callable[[], Any], timeout: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (answer := ready()):
        assert time.monotonic() < deadline, scheduler.calls
        scheduler.tick()
    return answer


def entry(name: str, every: float, **more: Any) -> dict[str, Any]:
    return {name: {"task": f"shop.{name}", "schedule": every, **more}}


def sent(server: Server, key: str) -> list[dict[str, Any]]:
    return [json.loads(text)["headers"] for text in server.client().lrange(key, 0, -1)][::-1]


def leads(scheduler: Any) -> Callable[[], bool]:
    return lambda: scheduler.is_leader and scheduler.added_by_the_tenure and bool(scheduler._heap)


def test_the_constructor_starts_nothing_and_reads_no_store(make: Any, tmp_path: Path):
    before = threading.active_count()
    scheduler = make(entry("work", 0.2))
    assert threading.active_count() == before
    assert scheduler.calls == []
    assert list(tmp_path.iterdir()) == []
    election, *_, store = scheduler.info.splitlines()
    assert election.endswith(":beat (not started)")
    assert store == f"    . db -> {tmp_path / 'entries'}"
    scheduler.close()
    scheduler.close()
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_may_take_the_app_out_of_its_keyword_arguments(quick_server: Server, key: str):
    class Taking(Scheduler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.name = kwargs["app"].main
            super().__init__(*args, **kwargs)

    app = Celery(key, set_as_current=False)
    app.conf.update(broker_url=quick_server.url, leader_url=quick_server.url)
    kind: Any = type("Leading", (LeaderSchedulerMixin, Taking), {})
    # As Celery's Service calls it.
    assert kind(app=app, max_interval=None, lazy=True).name == key
    plain: Any = type("Plain", (LeaderSchedulerMixin, Scheduler), {})
    assert plain(app, {}, 7, lazy=True).max_interval == 7


def test_a_wrong_setting_is_refused_by_the_constructor(make: Any):
    with pytest.raises(ImproperlyConfigured, match="leader_ttl is -1"):
        make(leader_ttl=-1)


def test_every_tenure_begins_with_the_attributes_that_the_constructor_left(make: Any):
    scheduler = make(entry("work", 0.2))
    wait = leads(scheduler)
    tick_until(scheduler, lambda: hasattr(scheduler, "added_by_the_tenure") and wait())
    token = scheduler._leader_mixin.token
    scheduler.label = "changed while it led"
    scheduler._leader_mixin.membership.rest()
    assert not scheduler.is_leader
    tick_until(scheduler, lambda: scheduler._leader_mixin.token == 0)
    assert not hasattr(scheduler, "added_by_the_tenure")
    assert (scheduler._heap, scheduler._store, scheduler.calls) == (None, None, [])
    assert scheduler.label == "from the constructor"
    scheduler._leader_mixin.membership._rests_until = 0.0
    tick_until(scheduler, lambda: hasattr(scheduler, "added_by_the_tenure") and wait())
    assert scheduler.calls == ["setup"]
    assert scheduler._leader_mixin.token > token


def test_a_message_carries_a_run_id_a_nonce_and_the_token(
    make: Any, quick_server: Server, key: str
):
    options = {"headers": {"mine": 1}, "leader": {"missed_runs": "all"}}
    scheduler = make(entry("work", 0.2, options=options))
    tick_until(scheduler, lambda: len(sent(quick_server, key)) >= 3)
    runs = sent(quick_server, key)
    assert len({run["id"] for run in runs}) == len(runs)
    assert len({run["leader_publication"] for run in runs}) == len(runs)
    for run in runs:
        assert run["id"] == run["leader_occurrence"]
        assert (run["leader_election"], run["mine"]) == (key, 1)
        assert run["leader_token"] == scheduler._leader_mixin.token
        assert run.get("celery_beat_task") is BY_STOCK
    assert "leader" not in runs[0]
    assert options == {"headers": {"mine": 1}, "leader": {"missed_runs": "all"}}


def test_a_task_id_of_the_user_is_kept(make: Any, quick_server: Server, key: str):
    scheduler = make(entry("work", 0.2, options={"task_id": "mine"}))
    tick_until(scheduler, lambda: sent(quick_server, key))
    run = sent(quick_server, key)[0]
    assert run["id"] == "mine"
    assert "leader_publication" not in run


def test_what_is_lost_while_the_arguments_are_evaluated_is_not_sent_and_not_noted(
    make: Any, quick_server: Server, key: str
):
    scheduler = make(entry("work", 0.2, args=[BeatLazyFunc(lose_leadership)]))
    LOSING[:] = [scheduler]
    noted: list[Any] = []
    constructed_with(scheduler, _note=lambda *args: noted.append(args))
    tick_until(scheduler, lambda: not LOSING)
    assert not scheduler.is_leader
    tick_until(scheduler, lambda: scheduler._leader_mixin.token == 0)
    assert sent(quick_server, key) == []
    assert noted == []


def test_an_entry_that_cannot_be_sent_is_logged_and_keeps_nobody_back(
    make: Any, quick_server: Server, key: str, caplog: pytest.LogCaptureFixture
):
    scheduler = make(
        entry("bad", 0.2, args=[object()])
        | entry("worse", 0.2, args=[BeatLazyFunc(read_prices)])
        | entry("good", 0.2)
    )
    tick_until(scheduler, lambda: len(sent(quick_server, key)) >= 3)
    assert {run["task"] for run in sent(quick_server, key)} == {"shop.good"}
    for name, text in {"bad": "not JSON serializable", "worse": "prices.csv"}.items():
        assert [r for r in caplog.messages if f"scheduled task {name}" in r and text in r]
    assert "broker failed" not in caplog.text
    assert scheduler.is_leader


def test_a_scheduler_that_fails_hands_leadership_over(
    make: Any, quick_server: Server, key: str, caplog: pytest.LogCaptureFixture
):
    scheduler, other = make(entry("work", 0.2)), make(entry("work", 0.2))
    constructed_with(scheduler, fails=ValueError("the store says no"))
    tick_until(scheduler, lambda: "the store says no" in caplog.text)
    assert not scheduler.is_leader
    tick_until(other, leads_of(other))
    for _ in range(3):
        scheduler.tick()  # a candidate again
    assert other.is_leader
    assert not scheduler.is_leader
    [record] = [r for r in caplog.records if "the store says no" in r.getMessage()]
    assert record.exc_info
    assert record.getMessage().endswith(
        "This beat stands down: others go first, and if there are none it leads again and tries "
        "for 1.2 s"
    )
    assert history(quick_server, key) == ["stood_down:process"]


def history(server: Server, key: str) -> list[str]:
    """Return why leaders resigned."""
    raw: Any = server.client().xrange(ElectionKeys(key, "beat").history)
    return [fields["reason"] for _, fields in raw if fields["event"] == "resigned"]


def test_one_that_is_alone_and_fails_in_vain_tries_on_and_stands_down_ever_more_rarely(
    make: Any, quick_server: Server, key: str, caplog: pytest.LogCaptureFixture
):
    scheduler = make(entry("work", 0.2))
    fails = ValueError("the store says no")
    constructed_with(scheduler, fails=fails)
    # At once, after 1.2 s in vain, after 2.4 s.
    tick_until(scheduler, lambda: len(history(quick_server, key)) == 3, 30)
    assert caplog.text.count("It reads its store again in") >= 4
    assert caplog.text.count("This beat stands down") == 3
    constructed_with(scheduler, fails=None)
    tick_until(scheduler, lambda: len(sent(quick_server, key)) >= 3, 30)
    assert not scheduler._leader_mixin.patience.is_in_doubt
    assert not scheduler._leader_mixin.goes_last
    leader = scheduler._leader_mixin.membership._leader
    assert leader._candidate._election.observation.campaign_later == 0.0


def test_a_broker_that_only_the_leader_cannot_reach_makes_another_lead(
    make: Any, quick_server: Server, key: str, caplog: pytest.LogCaptureFixture
):
    with Proxy(quick_server.port) as link:
        scheduler = make(entry("work", 0.2), broker_url=link.url())
        other = make(entry("work", 0.2))
        tick_until(scheduler, lambda: sent(quick_server, key))
        other.tick()  # it stands by, or the first is alone, and leads again without a tick
        link.refuse()
        link.cut()
        tick_until(scheduler, lambda: "This beat stands down" in caplog.text, 30)
        before = len(sent(quick_server, key))
        tick_until(other, lambda: len(sent(quick_server, key)) > before, 30)
        for _ in range(3):
            scheduler.tick()
            other.tick()
        assert not scheduler.is_leader
        assert history(quick_server, key) == ["stood_down:broker"]
        assert "The broker took no message of this beat for 0.6 s" in caplog.text


def test_a_broker_that_is_away_for_a_moment_makes_nobody_stand_down(
    make: Any, quick_server: Server, key: str, caplog: pytest.LogCaptureFixture
):
    with Proxy(quick_server.port) as link:
        scheduler = make(entry("work", 0.2), broker_url=link.url())
        scheduler._leader_mixin.be_patient(60.0)
        tick_until(scheduler, lambda: sent(quick_server, key))
        link.refuse()
        link.cut()
        tick_until(scheduler, lambda: caplog.text.count("The broker failed") >= 3, 30)
        link.accept()
        before = len(sent(quick_server, key))
        tick_until(scheduler, lambda: len(sent(quick_server, key)) > before, 30)
        assert history(quick_server, key) == []


def leads_of(scheduler: Any) -> Callable[[], bool]:
    return lambda: hasattr(scheduler, "added_by_the_tenure") and leads(scheduler)()


def test_a_scheduler_that_does_not_come_back_hands_leadership_over_and_ticks_on(
    make: Any, quick_server: Server, key: str, caplog: pytest.LogCaptureFixture
):
    scheduler, other = make(entry("work", 0.2)), make(entry("work", 0.2))
    hangs = threading.Event()
    constructed_with(scheduler, hangs=hangs)
    tick_until(scheduler, lambda: "has not returned for 0.6 s" in caplog.text)
    # What hangs does so until it is let go below, and no tick waits for it.
    while not other.is_leader:
        scheduler.tick()
        other.tick()
    assert history(quick_server, key) == ["stood_down:call"]
    # Meanwhile it takes no part, although nobody else leads.
    other.close()
    for _ in range(2):
        scheduler.tick()
    assert not scheduler._leader_mixin.membership._leader.active
    hangs.set()
    tick_until(scheduler, leads_of(scheduler))


def test_closing_notes_what_was_run_before_it_resigns(make: Any, quick_server: Server, key: str):
    scheduler = make(entry("work", 0.2))
    tick_until(scheduler, lambda: sent(quick_server, key))
    order: list[str] = []
    store, membership = scheduler._store, scheduler._leader_mixin.membership
    close, leave = store.close, membership.leave

    def closed() -> None:
        order.append(f"store, leading: {scheduler.is_leader}")
        close()

    def left() -> None:
        order.append("resigned")
        leave()

    store.close, membership.leave = closed, left
    scheduler.close()
    scheduler.close()
    assert order == ["store, leading: True", "resigned"]
    assert not scheduler.is_leader
    count = len(sent(quick_server, key))
    assert scheduler.tick() > 0
    assert len(sent(quick_server, key)) == count


def test_a_plain_scheduler_can_have_the_mixin_too(quick_server: Server, key: str):
    class Plain(LeaderSchedulerMixin, Scheduler):
        pass

    app = Celery(key, set_as_current=False)
    app.conf.update(broker_url=quick_server.url, leader_ttl=TTL, beat_schedule=entry("w", 9.0))
    scheduler = Plain(app, lazy=True)
    assert scheduler.info.splitlines()[-1].startswith("    . ttl")
    wait_until(lambda: scheduler.tick() == 0.0 and bool(scheduler.schedule), 30)
    assert list(scheduler.schedule) == ["w"]
    scheduler.close()


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("LeaderDatabaseScheduler", "django_celery_beat", "django-celery-beat"),
        ("LeaderDatabaseScheduler", "django", "django-celery-beat"),
        ("LeaderRedBeatScheduler", "redbeat", "redbeat"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    children: Children, name: str, package: str, extra: str
):
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import celery_safe_leader.schedulers as ready\nprint('imported')\n"
        f"try:\n    ready.{name}\nexcept ImportError as exc:\n    print('refused:', exc)\n"
    )
    if package == "django_celery_beat":
        script = "from django.conf import settings; settings.configure()\n" + script
    child = children.python(script)
    assert child.wait_for_line("refused").text == (
        f"refused: {name} needs the package {package}, which is not installed: "
        f'pip install ".[{extra}]" in a checkout of celery-safe-leader'
    )


def test_an_unknown_name_is_an_attribute_error():
    import celery_safe_leader.schedulers as ready

    with pytest.raises(AttributeError, match="LeaderOfNothing"):
        _ = ready.LeaderOfNothing
