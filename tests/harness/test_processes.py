"""The harness itself: children, and that none survives."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.processes import Children, wait_until
from tests.support.processes.child import ROOT, Child

FOREVER = "import time; print('up', flush=True); time.sleep(600)"


def gone(pid: int) -> bool:
    """Whether there is no such process, or only its zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_lines_come_in_order_with_their_moment(children: Children) -> None:
    before = time.monotonic()
    child = children.python("print('one'); import sys; print('two', file=sys.stderr)")
    assert child.wait() == 0
    child.wait_for_line("two")
    assert child.lines == ["one", "two"]
    assert before < child.timed_lines[0].at <= child.timed_lines[1].at < time.monotonic()


def test_waiting_for_a_line_ends_when_the_output_does(children: Children) -> None:
    child = children.python("print('last words')")
    with pytest.raises(AssertionError, match=r"its output ended(.|\n)*last words"):
        child.wait_for_line("never", timeout=30)


def test_waiting_for_a_line_can_leave_out_the_past(children: Children) -> None:
    child = children.python("print('a 1'); input_ = __import__('time').sleep(0.3); print('a 2')")
    child.wait_for_line("a 1")
    assert child.wait_for_line("a", after=1).text == "a 2"


def test_exit_status_tells_the_signal(children: Children) -> None:
    child = children.python(FOREVER)
    child.wait_for_line("up")
    assert child.running
    child.kill()
    assert child.returncode == -signal.SIGKILL


def test_stop_reaches_a_paused_child(children: Children) -> None:
    child = children.python(FOREVER)
    child.wait_for_line("up")
    child.pause()
    assert child.running
    assert child.stop() == -signal.SIGTERM


def test_paused_child_writes_nothing_until_it_is_resumed(children: Children) -> None:
    script = "import time\nfor i in range(10**6): print(i, flush=True); time.sleep(0.01)"
    child = children.python(script)
    child.wait_for_line("3")
    child.pause()
    time.sleep(0.1)
    count = len(child.lines)
    time.sleep(0.2)
    assert len(child.lines) == count
    child.resume()
    wait_until(lambda: len(child.lines) > count, 5, "more lines")
    child.pause()
    assert child.running


def test_child_outlives_the_thread_that_started_it(children: Children) -> None:
    started: list[Child] = []
    thread = threading.Thread(target=lambda: started.append(children.python(FOREVER)))
    thread.start()
    thread.join()
    started[0].wait_for_line("up")
    time.sleep(0.1)
    assert started[0].running


def test_close_ends_what_the_child_started() -> None:
    script = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(600)']); print(p.pid, flush=True); time.sleep(600)"
    )
    with Child([sys.executable, "-c", script]) as child:
        grandchild = int(child.wait_for_line(str.isdigit).text)
        child.kill()
        assert not gone(grandchild)
    wait_until(lambda: gone(grandchild), 5, "the end of the grandchild")


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(1)"])
def test_nothing_survives_the_test_run(children: Children, end: str, tmp_path: Path) -> None:
    script = f"""
import os, sys
from tests.support.processes import Children
from tests.support.servers import Server
server = Server("valkey").start()
child = Children().python({FOREVER!r})
print("pids", server.process.pid, child.pid, flush=True)
{end}
"""
    run = children.python(script, env={"TMPDIR": str(tmp_path)})
    pids = [int(word) for word in run.wait_for_line("pids").text.split()[1:]]
    assert len(pids) == 2
    assert run.wait() in (-signal.SIGKILL, 1)
    wait_until(lambda: all(gone(pid) for pid in pids), 5, f"the end of {pids}")


def test_children_see_no_settings_from_outside(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "elsewhere")
    script = "import os; print(sorted(n for n in os.environ if n[:6] in ('CELERY', 'DJANGO')))"
    child = children.python(script, env={"CELERY_SETTING": "1"})
    assert child.wait_for_line("[").text == "['CELERY_SETTING']"


def test_python_children_can_import_from_the_repository(children: Children, tmp_path: Path) -> None:
    child = children.python("import tests.support as s; print(s.__file__)", cwd=tmp_path)
    assert child.wait_for_line("support").text == str(ROOT / "tests/support/__init__.py")
