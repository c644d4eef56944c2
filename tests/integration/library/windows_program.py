"""The package where Unix's names are missing, as on Windows: ``windows_program.py URL``.

Other packages are imported before, as they have ways of their own for Windows. Then the names go,
every module is imported, and the library, leader-only calls and a board are used.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
import time

import celery.bin.celery
import celery.contrib.testing.worker
import django
import django.conf
import kombu.transport.redis
import redis.asyncio

OTHERS = (celery.bin.celery, celery.contrib.testing.worker, kombu, redis.asyncio)
django.conf.settings.configure(INSTALLED_APPS=["django_celery_beat"])
django.setup()
SIGNALS = (
    "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGRTMAX",
    "SIGRTMIN", "SIGSTOP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "pthread_kill", "pthread_sigmask",
    "setitimer", "siginterrupt", "sigwait",
)  # fmt: skip
IN_OS = (
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fork", "forkpty", "getegid", "geteuid",
    "getgid", "getpgid", "getuid", "killpg", "memfd_create", "register_at_fork", "setsid",
    "setuid", "sched_getaffinity", "uname", "waitid",
)  # fmt: skip
IN_TIME = (
    "CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW", "CLOCK_REALTIME", "clock_gettime",
    "tzset",
)  # fmt: skip
MODULES = ("fcntl", "grp", "pwd", "resource", "syslog", "termios")

for place, names in ((signal, SIGNALS), (os, IN_OS), (time, IN_TIME)):
    for name in names:
        if hasattr(place, name):
            delattr(place, name)
for name in MODULES:
    sys.modules[name] = None  # type: ignore[assignment]

import celery_safe_leader  # noqa: E402

assert not hasattr(signal, "SIGUSR2")
imported = [
    importlib.import_module(found.name).__name__
    for found in pkgutil.walk_packages(celery_safe_leader.__path__, "celery_safe_leader.")
    if not found.name.endswith("__main__")
]
print("imported", len(imported), flush=True)

from celery import Celery  # noqa: E402

from celery_safe_leader import create_safe_redis_leader, leader_only  # noqa: E402
from celery_safe_leader._core.events import Lease  # noqa: E402
from celery_safe_leader._runtime.clock import SystemClock  # noqa: E402
from celery_safe_leader._runtime.embedded.board import Board, BoardReader  # noqa: E402
from celery_safe_leader.testing import granted_leadership  # noqa: E402

leader = create_safe_redis_leader(redis=sys.argv[1], key="windows", ttl=10.0, wait=0.1)
leader.elect()
print("token", leader.wait_until_leader(timeout=20) > 0, leader.is_leader, flush=True)
leader.shutdown()

app = Celery("windows", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.leader_url = sys.argv[1]


@app.task(name="alone", shared=False)
@leader_only(revoke_on_loss=True)
def alone(x: int) -> int:
    return x + 1


alone.delay(1)
with granted_leadership():
    print("called", alone(1), alone.apply((2,)).get(), flush=True)

now = SystemClock().now()
board = Board("windows", "host:1:0")
board.write(Lease(7, now, now))
seen = BoardReader(board.path).read()
print("board", seen is not None and seen[1].fencing_token, flush=True)
board.close()
