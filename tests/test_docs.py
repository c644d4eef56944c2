"""The documentation says what is there: settings, commands, links, messages, the diagram."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery
from celery.bin.celery import celery
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader._dispatch.run import TRANSITIONS, RunState
from celery_safe_leader._setting_sources import KNOWN
from docs import diagram
from tests.docs.messages import log_lines, texts
from tests.docs.pages import PAGES, Page, anchor_of, page
from tests.support.processes.child import ROOT
from tools import run_states

BROKER = "redis://localhost:6379/0"
SERVICES = re.compile(r"^  ([a-z0-9-]+):$", re.MULTILINE)
# A path of one machine, or a note that was left behind, means nothing to those who read a page.
FORBIDDEN = re.compile(r"/(?:home|root|tmp|usr)/|site-packages|\bTODO\b|\bFIXME\b", re.IGNORECASE)

of_each_page = pytest.mark.parametrize("a_page", PAGES, ids=lambda page: page.name)


@of_each_page
def test_every_python_block_compiles(a_page: Page) -> None:
    for block in a_page.python():
        compile("\n" * (block.line - 1) + block.text, a_page.name, "exec")


@of_each_page
def test_every_link_leads_somewhere(a_page: Page) -> None:
    broken = []
    for link in a_page.links:
        target = (a_page.path.parent / link.path).resolve() if link.path else a_page.path
        if not target.exists():
            broken.append(f"{link.path}: no such file")
        elif link.anchor and link.anchor not in Page(target).anchors:
            broken.append(f"{link.path}#{link.anchor}: no such heading")
    assert broken == []


@of_each_page
def test_no_word_is_about_the_place_where_it_was_written(a_page: Page) -> None:
    assert FORBIDDEN.findall(a_page.text) == []


def test_every_test_that_the_page_of_reports_names_exists() -> None:
    text = (ROOT / "docs/explanation/reports.md").read_text()
    named = set(re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", text))
    assert len(named) > 20
    missing = {
        (path, name) for path, name in named if f"def {name}(" not in (ROOT / path).read_text()
    }
    assert missing == set()
    # Each row is played by what it names, or says that it is not.
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row for row in rows if "::test_" not in row and "*read only*" not in row] == []


@of_each_page
def test_every_command_exists(a_page: Page) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    services = SERVICES.findall((ROOT / "docker-compose.yml").read_text())
    wrong = []
    for command in a_page.commands:
        words = command.split()
        if words[0] == "make" and words[1] not in targets:
            wrong.append(command)
        elif words[:2] == ["python", "-m"] and not _is_module(words[2]):
            wrong.append(command)
        elif words[:2] == ["docker", "compose"] and words[2] != "up":
            named = [word for word in words[3:] if not word.startswith("-")]
            if named[0] not in services:
                wrong.append(command)
        elif words[0] == "celery" and not celery.commands.keys() & set(words):
            wrong.append(command)
    assert wrong == []


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_anchors_are_those_of_github() -> None:
    assert anchor_of("What is promised, and what is not") == "what-is-promised-and-what-is-not"
    assert anchor_of("`worker -B` isn't (yet)") == "worker--b-isnt-yet"


def _defaults() -> dict[str, str]:
    """Return the defaults as the tables show them, from the settings of an app that sets none."""
    app = Celery("shop", broker=BROKER)
    app.conf.broker_transport_options = {}
    settings = conf.read(app)
    assert (settings.url, settings.key) == (BROKER, "shop")
    assert settings.wait == settings.ttl / 5
    assert settings.queue == "leader.shop"
    patient = Celery("shop", broker=BROKER)
    patient.conf.broker_transport_options = {"visibility_timeout": 10_000}
    assert conf.read(patient).dedup_window == 20_000
    return {
        "leader_url": "the broker's URL, else the result backend's, whichever is a Redis or Valkey "
        "first",
        "leader_options": f"`{settings.options!r}`",
        "leader_key": "the app's name",
        "leader_ttl": f"`{settings.ttl!r}`",
        "leader_wait": "a fifth of the ttl",
        "leader_wait_replicas": f"`{settings.wait_replicas!r}`",
        "leader_allow_long_ttl": f"`{settings.allow_long_ttl!r}`",
        "leader_missed_runs": f"`{settings.missed_runs!r}`",
        "leader_expires_from": f"`{settings.expires_from!r}`",
        "leader_dedup_window": f"`{settings.dedup_window!r}`, or twice the broker's visibility "
        "timeout if that is more",
        "leader_queue": "`leader.` and the key",
        "leader_candidate": f"`{settings.candidate!r}`",
        "leader_drain_timeout": f"`{settings.drain_timeout!r}`",
        "leader_http": f"`{settings.http!r}`",
        "leader_ignored_settings": "`None`",
    }


@pytest.mark.parametrize(("name", "column"), [("README.md", 1), ("docs/reference/settings.md", 2)])
def test_the_tables_of_settings_are_those_of_the_code(name: str, column: int) -> None:
    rows = page(name).rows("setting")
    assert {row[0].strip("`"): row[column] for row in rows} == _defaults()
    assert [row[0].strip("`") for row in rows] == [f"leader_{known}" for known in KNOWN]


def test_djangos_names_and_the_explanations_are_complete() -> None:
    settings = page("docs/reference/settings.md")
    for row in settings.rows("setting"):
        setting = row[0].strip("`")
        assert row[1] == f"`CELERY_{setting.upper()}`"
        assert f"\n**`{setting}`** — " in settings.text


def test_what_the_table_allows_is_allowed_and_nothing_beyond() -> None:
    table = {
        row[0].strip("`"): row[3] for row in page("docs/reference/settings.md").rows("setting")
    }
    assert "0.05 to 86,400" in table["leader_ttl"]
    assert "0.001 to 86,400" in table["leader_wait"]
    good = [(0.05, 0.001, False), (300, 300, False), (86_400, 86_400, True)]
    for ttl, wait, long_ttl in good:
        assert _read(leader_ttl=ttl, leader_wait=wait, leader_allow_long_ttl=long_ttl).ttl == ttl
    bad: list[dict[str, object]] = [
        {"leader_ttl": 0.049},
        {"leader_ttl": 301},
        {"leader_wait": 301},
        {"leader_wait": 86_401, "leader_allow_long_ttl": True},
        {"leader_wait": 0.0009},
        {"leader_wait_replicas": -1},
    ]
    for settings in bad:
        with pytest.raises(ImproperlyConfigured, match="must be"):
            _read(**settings)


def _read(**settings: object) -> conf.LeaderSettings:
    app = Celery("shop", broker=BROKER)
    app.conf.update(settings)
    return conf.read(app)


@pytest.mark.parametrize("tool", [diagram, run_states])
def test_the_diagram_shows_the_present_table(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("tool", "transition"),
    [(diagram, "    standby --> leading: win\n"), (run_states, "    claimed --> sent\n")],
)
def test_a_diagram_that_is_out_of_date_is_noticed(
    tool: ModuleType,
    transition: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, text = tmp_path / "page.md", tool.PAGE.read_text()
    assert transition in text
    old.write_text(text.replace(transition, ""))
    monkeypatch.setattr(tool, "PAGE", old)
    assert tool.main(["--check"]) == 1
    assert f"run python -m {tool.__name__}" in capsys.readouterr().err
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    assert old.read_text() == text


def test_a_new_transition_of_a_run_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {**TRANSITIONS, RunState.OWED: frozenset({RunState.UNSETTLED, RunState.GIVEN_UP})}
    monkeypatch.setattr(run_states, "TRANSITIONS", more)
    assert run_states.main(["--check"]) == 1


def test_every_state_of_a_run_is_explained_in_the_order_of_the_code() -> None:
    rows = page("docs/explanation/architecture.md").rows("state")
    assert [row[0] for row in rows] == [state.value for state in RunState]


def test_every_log_line_is_explained() -> None:
    explained = page("docs/operations/running.md").text
    lines = log_lines()
    assert len(lines) > 30
    assert {w: line.pattern for w, line in lines.items() if not line.search(explained)} == {}


def test_who_is_told_to_install_something_is_told_what_the_readme_says() -> None:
    """Of an index on which the package is not."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "not on PyPI yet" in readme
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    for text in (texts(), readme, *pages):
        assert "celery-safe-leader[" not in text
        assert not re.search(r"pip install ['\"]?celery.safe.leader", text)
    commands = re.findall(r'pip install "\.\[([^]]*)\]" in a checkout', texts())
    assert {"web", "prometheus"} <= set(commands)
    for extra in ("web", "prometheus", "redbeat", "django-celery-beat", "django"):
        assert f'".[{extra}]"' in readme


def test_every_message_that_is_explained_exists() -> None:
    there = texts()
    rows = page("docs/operations/troubleshooting.md").rows("message")
    assert len(rows) > 50
    cells = [row[0].strip().removesuffix("…").strip().strip("`") for row in rows]
    missing = [c for c in cells for piece in c.split("…") if piece.strip() not in there]
    assert missing == []


def test_the_excerpt_of_the_demo_is_what_the_demo_says() -> None:
    (excerpt,) = (block.text for block in page("README.md").blocks if block.language == "text")
    demo = "\n".join(path.read_text() for path in (ROOT / "demo").rglob("*.py"))
    for words in (
        "is dead; its lease must run out",
        "takeover",
        "promised: at most 1.01 ttl + wait",
        "promised: milliseconds",
        "others stand by",
        "Planned handover: ",
        "Count, from the executions that the worker recorded",
    ):
        assert words in excerpt
        assert words in demo


def test_headers_are_those_of_the_messages() -> None:
    from celery_safe_leader._publishing import headers

    names = {
        headers.ELECTION,
        headers.OCCURRENCE,
        headers.PUBLICATION,
        headers.TOKEN,
        headers.COVERS,
    }
    assert {row[0].strip("`") for row in page("docs/guides/beat.md").rows("header")} == names


def test_the_package_index_will_show_the_readme() -> None:
    assert '\nreadme = "README.md"\n' in (ROOT / "pyproject.toml").read_text()
