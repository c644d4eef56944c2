"""The site of the documentation: built strictly, complete, and without anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES
from tests.support.processes.child import ROOT

OLD_NAMES = (
    "beat", "benchmarks", "compatibility", "concepts", "leader-only-tasks", "library",
    "migrating-from-js", "mutants", "operations", "other-schedulers", "redis", "redis-acl",
    "settings", "troubleshooting",
)  # fmt: skip
"""Pages of docs/ before it got its folders."""
LOADED = re.compile(r"<(?:script|link|img)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\s\">]+)")


def build(site: Path, config: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    quiet = {"DISABLE_MKDOCS_2_WARNING": "true", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    return subprocess.run(
        [*command, "--site-dir", str(site)],
        capture_output=True,
        text=True,
        env={**os.environ, **quiet, **environment},
        timeout=100,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site")
    built = build(path, ROOT / "mkdocs.yml")
    assert built.returncode == 0, built.stderr
    return path


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = [page.path.relative_to(ROOT / "docs") for page in PAGES if page.name[:5] == "docs/"]
    assert len(pages) > 25
    assert [page for page in pages if not (site / page).with_suffix(".html").is_file()] == []
    for name in ("index", "changelog", "contributing", "security", "example_project"):
        assert (site / f"{name}.html").is_file()


def test_old_names_lead_to_the_pages(site: Path) -> None:
    for name in OLD_NAMES:
        found = re.search(r"url=([\w/.-]+)", (site / f"{name}.html").read_text())
        assert found is not None, name
        assert (site / found[1]).is_file()


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = {
        (path.name, url)
        for path in site.rglob("*.html")
        for url in LOADED.findall(path.read_text())
    }
    assert loaded == set()


def test_a_copy_of_mermaid_becomes_part_of_the_site(tmp_path: Path) -> None:
    copy = tmp_path / "mermaid.min.js"
    copy.write_text("// mermaid")
    built = build(tmp_path / "site", ROOT / "mkdocs.yml", MERMAID_JS=str(copy))
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "assets" / "mermaid.min.js").read_text() == "// mermaid"
    page = (tmp_path / "site" / "explanation" / "architecture.html").read_text()
    assert "../assets/mermaid.min.js" in page


def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Home\n\n[There](there.md#heading)\n")
    (docs / "there.md").write_text("# There\n")
    config = tmp_path / "mkdocs.yml"
    # The configuration of the site, on these two pages alone.
    alone = f"docs_dir: {docs}\nhooks: []\nplugins: []\nextra_css: []\nnav: [index.md, there.md]\n"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\n{alone}")
    built = build(tmp_path / "site", config)
    assert built.returncode == 1
    assert "does not contain an anchor '#heading'" in built.stderr
