"""Beats and workers as containers run them: another user, a root that nobody can write to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tests.e2e.worker.stage import BROKERS
from tests.support.celery.beats import write_app
from tests.support.processes import Child, Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.processes.confined import NOBODY, confined, missing_programs
from tests.support.servers import Server
from tests.support.servers.rabbitmq import RABBITMQ_URL

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="mounts are Linux's"),
]

TASKS = """
import os

import redis

from celery_safe_leader import current_leadership, leader_only

store = redis.Redis.from_url({store!r})
PLACES = (".", "/tmp", "/var/tmp", "/", os.path.expanduser("~"))

def refused(place):
    try:
        with open(os.path.join(place, "probe"), "w"):
            return False
    except OSError:
        return True

@app.task(name="periodic")
def periodic():
    store.rpush("periodic", os.getuid())

@app.task(name="alone")
@leader_only
def alone(x):
    current_leadership().check()
    store.rpush("alone", os.getpid())
    return [os.getuid(), all(map(refused, PLACES)), x]
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="confined-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def node(folder: Path, name: str) -> list[str]:
    """Return a worker's option for a name of its own: on RabbitMQ its mailbox is its alone."""
    return ["-n", f"{name}@{folder.name}"]


def start(
    children: Children, folder: Path, *arguments: str, name: str, env: dict[str, str], **how: object
) -> Child:
    """Start ``celery -A app …`` confined."""
    argv = [sys.executable, "-m", "celery", "-A", "app", *arguments, "-l", "INFO"]
    if arguments[0] == "worker":
        argv += node(folder, name)
    command = confined(argv, needed=[ROOT, folder], **how)  # type: ignore[arg-type]
    path = os.pathsep.join((str(folder), str(ROOT)))
    return children.start(
        command, env={"PYTHONPATH": path, "HOME": "/nonexistent", **env}, cwd=folder, name=name
    )


@pytest.fixture(params=BROKERS)
def queues(request: pytest.FixtureRequest, children: Children) -> Iterator[dict[str, str]]:
    """Settings of the broker, if it is another server than the election's, and of its queues."""
    name = uuid.uuid4().hex[:8]
    names = {"task_default_queue": f"plain-{name}", "leader_queue": f"leader-{name}"}
    if request.param == "redis":
        yield names
        return
    yield {"broker_url": RABBITMQ_URL, **names}
    children.close()
    with Celery(broker=RABBITMQ_URL).connection_for_write() as connection:
        for queue in names.values():
            connection.default_channel.queue_delete(queue)
            connection.default_channel.exchange_delete(queue)


def app(folder: Path, server: Server, queues: dict[str, str]) -> None:
    write_app(
        folder,
        server.url,
        '{"p": {"task": "periodic", "schedule": 0.5}}',
        more=TASKS.format(store=server.url),
        result_backend=server.url,
        leader_url=server.url,
        leader_ttl=2.0,
        leader_wait=0.2,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=True,
        **queues,
    )


def call(children: Children, folder: Path, times: int) -> list[list[object]]:
    """Call the leader-only task from outside, and return what came of it."""
    script = "import app, json\nprint(json.dumps([app.alone.delay(n).get(60) for n in range(%d)]))"
    child = children.python(script % times, env={"PYTHONPATH": str(folder)}, cwd=folder)
    assert child.wait(90) == 0, child.output
    found: list[list[object]] = json.loads(child.lines[-1])
    return found


def test_user_65534_needs_what_the_docs_name_a_folder_for_temporary_files_for_pool_processes(
    children: Children, folder: Path, valkey_server: Server, queues: dict[str, str]
) -> None:
    missing = missing_programs()
    assert not missing, f"not on this machine: {', '.join(missing)}"
    assert os.getuid() == 0, "another user's processes are started by root"
    app(folder, valkey_server, queues)
    page = (ROOT / "docs/operations/running.md").read_text()
    assert "| `celery worker` with the pool prefork | a folder for temporary files" in page
    temporary = folder / "tmp"
    temporary.mkdir()
    # What is stored there, as Celery's pool does, is in a folder of that worker's own.
    env = {"TMPDIR": str(temporary)}
    worker = start(
        children, folder, "worker", "-c", "2", name="worker", env=env, writable=temporary
    )
    others = [
        start(children, folder, "worker", "-P", pool, name=pool, env={})
        for pool in ("threads", "solo")
    ]
    beat = start(children, folder, "beat", "-S", "leader", "--pidfile=", name="beat", env={})
    store = valkey_server.client()

    def standing() -> str:
        return "runs; " + "\n".join(child.output for child in (worker, *others, beat))

    wait_until(lambda: store.llen("periodic") >= 3, 60, standing)
    assert set(store.lrange("periodic", 0, -1)) == {str(NOBODY)}
    assert call(children, folder, 3) == [[NOBODY, True, n] for n in range(3)]
    assert not list(temporary.iterdir())
    for child in (beat, worker, *others):
        child.wait_for_line("Taking part in the election", 30)
        assert child.stop() == 0, child.output


def test_an_embedded_beat_needs_no_more_than_its_worker(
    children: Children, folder: Path, valkey_server: Server, queues: dict[str, str]
) -> None:
    app(folder, valkey_server, queues)
    temporary = folder / "tmp"
    temporary.mkdir()
    arguments = ("worker", "-c", "1", "-B", "--scheduler", "leader")
    env = {"TMPDIR": str(temporary)}
    worker = start(children, folder, *arguments, name="worker", env=env, writable=temporary)
    store = valkey_server.client()
    wait_until(lambda: store.llen("periodic") >= 3, 60, lambda: f"runs; {worker.output}")
    assert call(children, folder, 1) == [[NOBODY, True, 0]]
    assert worker.stop() == 0, worker.output


def test_systemd_tmpfiles_leaves_a_workers_file_alone_and_new_pool_processes_lead(
    children: Children, folder: Path, valkey_server: Server, queues: dict[str, str]
) -> None:
    missing = missing_programs("systemd-tmpfiles")
    assert not missing, f"not on this machine: {', '.join(missing)}"
    assert os.getuid() == 0, "a worker changes its user if root started it"
    app(folder, valkey_server, queues)
    temporary = folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    # A worker that has changed its user has no file in memory: it is in the folder.
    arguments = ("worker", "-c", "1", "--max-tasks-per-child", "1", f"--uid={NOBODY}")
    worker = start(
        children,
        folder,
        *arguments,
        name="worker",
        env={"TMPDIR": str(temporary)},
        user=None,
        read_only=False,
    )
    before = call(children, folder, 2)
    assert [found[0] for found in before] == [NOBODY, NOBODY]
    (own,) = temporary.glob("celery-safe-leader-*")
    stray = temporary / "celery-safe-leader-1-stray"
    stray.mkdir()
    (stray / "board").write_bytes(b"x")
    configuration = folder / "clean.conf"
    configuration.write_text(f"d {temporary} 1777 root root 1s\n")
    command = ["systemd-tmpfiles", "--clean", str(configuration)]
    deadline = time.monotonic() + 60
    while stray.exists():
        assert time.monotonic() < deadline, "systemd-tmpfiles removed nothing"
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        time.sleep(0.2)
    assert (own / "board").exists()
    # Each call runs in a new process, which has to find the leadership anew.
    assert [found[0] for found in call(children, folder, 3)] == [NOBODY] * 3
    assert worker.stop() == 0, worker.output
    assert not own.exists()


FULL = """\
mount -t tmpfs -o size=16k,mode=1777 full "$TMPDIR" && cat /dev/zero > "$TMPDIR/x" 2>&-
exec "$@"
"""
NO_INODE = """\
mount -t tmpfs -o nr_inodes=3,mode=1777 full "$TMPDIR" && touch "$TMPDIR/x"
exec "$@"
"""


def start_in(
    children: Children, folder: Path, script: str, *options: str, read_only: bool = True
) -> Child:
    """Start a worker of root after a script that fills the folder for temporary files."""
    assert not missing_programs()
    assert os.getuid() == 0, "only root mounts, and a worker changes its user if root started it"
    temporary = folder / "tmp"
    temporary.mkdir()
    celery = [sys.executable, "-m", "celery", "-A", "app", "worker", "-c", "1", "-l", "INFO"]
    argv = ["sh", "-c", script, "sh", *celery, *options, *node(folder, "full")]
    command = confined(argv, needed=[ROOT, folder], user=None, read_only=read_only)
    path = os.pathsep.join((str(folder), str(ROOT)))
    env = {"PYTHONPATH": path, "HOME": "/nonexistent", "TMPDIR": str(temporary)}
    return children.start(command, env=env, cwd=folder, name="worker")


def folders_of(worker: Child) -> list[Path]:
    """Return where a worker has the file that its pool processes read, if it is in a folder."""
    # What Python takes where the first choice is full.
    places = map(Path, ("/tmp", "/var/tmp"))  # noqa: S108
    return [found for each in places for found in each.glob(f"celery-safe-leader-{worker.pid}-*")]


def test_a_worker_for_which_no_folder_has_room_leads_all_the_same(
    children: Children, folder: Path, valkey_server: Server, queues: dict[str, str]
) -> None:
    # The root is read-only: where Python finds one folder full, it takes the next. Celery's pool of
    # processes does not begin without one.
    app(folder, valkey_server, queues)
    worker = start_in(children, folder, FULL, "-P", "threads")
    assert [found[2] for found in call(children, folder, 2)] == [0, 1]
    assert worker.stop() == 0, worker.output


@pytest.mark.parametrize("options", [[], [f"--uid={NOBODY}"]], ids=["in memory", "in the folder"])
def test_pool_processes_see_the_leadership_whose_folder_for_temporary_files_is_full(
    children: Children,
    folder: Path,
    valkey_server: Server,
    queues: dict[str, str],
    options: list[str],
) -> None:
    app(folder, valkey_server, queues)
    worker = start_in(children, folder, FULL, *options, read_only=False)
    assert [found[2] for found in call(children, folder, 2)] == [0, 1]
    assert len(folders_of(worker)) == len(options)
    assert worker.stop() == 0, worker.output
    assert folders_of(worker) == []


@pytest.mark.parametrize(
    ("script", "why"),
    [(FULL, "No usable temporary directory found"), (NO_INODE, "No space left on device")],
    ids=["no room", "no inode"],
)
def test_a_worker_that_changed_its_user_says_that_no_folder_has_room_and_ends(
    children: Children,
    folder: Path,
    valkey_server: Server,
    queues: dict[str, str],
    script: str,
    why: str,
) -> None:
    app(folder, valkey_server, queues)
    worker = start_in(children, folder, script, "-P", "threads", f"--uid={NOBODY}")
    assert worker.wait(60) == 1, worker.output
    assert "the worker cannot make the small file in which its pool processes" in worker.output
    assert why in worker.output
    assert "Set TMPDIR to a folder that this user may write to and that is not full" in (
        worker.output
    )
