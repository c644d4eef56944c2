"""Ways in which Celery calls a task's body without a message of its own: none is unguarded."""

from __future__ import annotations

from typing import Any

import pytest
from celery import group

from tests.e2e.worker.stage import TASKS, WorkerFleet, blind
from tests.support.celery.workers import leader_of
from tests.support.processes import wait_until

MORE = """
@app.task(name="each")
@leader_only
def each(x, y=0):
    return [main_process(), current_leadership().token, x + y]

@app.task(name="breaks")
def breaks():
    raise KeyError(main_process())

@app.task(name="mourns")
@leader_only
def mourns(request, error, traceback):
    store.rpush("mourns", f"{main_process()} {current_leadership().token}")

class Calling(app.Task):
    name = "calling"

    def __call__(self, *args, **kwargs):
        store.rpush("calling", main_process())
        try:
            return super().__call__(*args, **kwargs)
        except KeyError:
            return super().__call__(0)

    def run(self, x):
        if x:
            raise KeyError(x)
        return [main_process(), current_leadership().token]

    def on_success(self, *_):
        store.rpush("succeeded", current_leadership().token)

leader_only(Calling)
calling = app.register_task(Calling())
"""


def sent_by_name(app: Any, name: str, queue: str, items: list[Any]) -> Any:
    """Call a task of Celery's for each item, on a queue that all workers consume."""
    kwargs = {"task": app.each.s(), "it": items}
    return app.app.send_task(name, kwargs=kwargs, queue=queue)


@pytest.mark.timeout(120)
def test_maps_and_chunks_run_on_the_leader_only(fleet: WorkerFleet) -> None:
    app = fleet.write(tasks=TASKS + MORE)
    leader, _ = fleet.start_two()
    items, pairs = [1, 2, 3], [(1, 1), (2, 2)]
    mapped = [app.each.map(items).apply_async() for _ in range(4)]
    starred = [app.each.starmap(pairs).apply_async() for _ in range(4)]
    named = [sent_by_name(app, "celery.map", fleet.plain, items) for _ in range(8)]
    named += [sent_by_name(app, "celery.starmap", fleet.plain, pairs) for _ in range(8)]
    chunked = app.each.chunks(pairs * 4, 2).group().apply_async()
    joined = group(app.each.map(items), app.each.starmap(pairs)).apply_async()
    found = [result.get(timeout=30) for result in (*mapped, *starred, *named)]
    found += chunked.get(timeout=30) + joined.get(timeout=30)
    assert {answer[0] for answers in found for answer in answers} == {leader.pid}
    assert len({answer[1] for answers in found for answer in answers}) == 1
    assert mapped[0].get()[2][2] == 3


@pytest.mark.timeout(120)
def test_a_map_is_skipped_as_its_task_says_where_nobody_sees_the_leadership(
    fleet: WorkerFleet,
) -> None:
    app = fleet.write(tasks=TASKS + MORE)
    leader = fleet.start("-c", "1")
    leader_of([leader])
    blind(fleet)
    assert app.above.map([1, 2]).apply_async().get(timeout=30) is None
    waiting = app.each.map([1, 2]).apply_async()
    leader.child.wait_for_line("Forwarded celery.map", 30)
    assert waiting.state == "PENDING"


@pytest.mark.timeout(120)
def test_error_callbacks_that_celery_calls_in_place_run_on_the_leader_only(
    fleet: WorkerFleet,
) -> None:
    app = fleet.write(tasks=TASKS + MORE)
    leader, standby = fleet.start_two()
    ran = []
    for _ in range(40):
        result = app.breaks.apply_async(link_error=app.mourns.s())
        with pytest.raises(KeyError) as raised:
            result.get(timeout=30)
        ran.append(int(raised.value.args[0]))
        if len(set(ran)) == 2 and len(ran) > 5:
            break
    assert set(ran) == {leader.pid, standby.pid}
    standby.child.wait_for_line("Did not run mourns, the error callback of breaks")
    wait_until(lambda: fleet.store.llen("mourns") == ran.count(leader.pid), 30, "its callbacks")
    marks: Any = fleet.store.lrange("mourns", 0, -1)
    assert {int(mark.split()[0]) for mark in marks} == {leader.pid}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_call_of_its_own_that_calls_the_body_twice_is_guarded_both_times(
    fleet: WorkerFleet, pool: str
) -> None:
    app = fleet.write(pool, tasks=TASKS + MORE)
    leader = fleet.start("-P", pool, "-c", "1")
    leader_of([leader])
    where, token = app.calling.delay(1).get(timeout=30)
    assert where == leader.pid
    wait_until(lambda: fleet.store.llen("succeeded"), 30, "the handler of successes")
    assert fleet.store.lrange("succeeded", 0, -1) == [b"%d" % token]
