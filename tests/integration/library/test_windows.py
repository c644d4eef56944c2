"""Where the names of Unix are missing, as on Windows, the library and producers work."""

from __future__ import annotations

from pathlib import Path

from tests.support.candidates.resigned import leave_resigned
from tests.support.processes import Children
from tests.support.servers import Server

PROGRAM = Path(__file__).with_name("windows_program.py").read_text()


def test_every_module_is_imported_and_used_without_the_names_of_unix(
    children: Children, valkey_server: Server
) -> None:
    leave_resigned(valkey_server.url, "windows")
    child = children.python(PROGRAM, valkey_server.url, name="windows")
    assert child.wait(60) == 0, child.output
    imported, *said = child.lines
    assert int(imported.split()[1]) > 200
    assert said == ["token True True", "called 2 3", "board 7"]
