"""Makes pages of the files above docs/, and turns links to them into links between pages.

On GitHub the files are read where they stand; ``make docs`` reads them through these hooks. The
diagrams are drawn in the reader's browser by Mermaid, which the theme fetches from a CDN. Set
``MERMAID_JS`` to a copy of ``mermaid.min.js`` to put it into the site instead.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "example_project/README.md": "example_project.md",
}
"""Files above docs/ and their pages on the site."""
ASSETS = {"LICENSE": "LICENSE.txt"}
MERMAID = "assets/mermaid.min.js"
_LINK = re.compile(r"(?<=\]\()(?!#)([^)\s#]+)(?=(?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """Let the theme use the copy of Mermaid in the site, if there is one."""
    if os.environ.get("MERMAID_JS"):
        config.extra_javascript.append(MERMAID)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the files from above docs/."""
    sources = {site: ROOT / name for name, site in (PAGES | ASSETS).items()}
    if os.environ.get("MERMAID_JS"):
        sources[MERMAID] = Path(os.environ["MERMAID_JS"]).resolve()
    for site, path in sources.items():
        files.append(File.generated(config, site, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return a page whose links lead to pages of the site."""
    of_page = {site: name for name, site in PAGES.items()}
    site = page.file.src_uri
    name = of_page.get(site, f"docs/{site}")

    def on_the_site(found: re.Match[str]) -> str:
        if ":" in found[1]:
            return found[1]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[1]))
        if not target.startswith("docs/") and target not in PAGES | ASSETS:
            raise PluginError(f"{name}: {found[1]} is not on the site; name it without a link")
        there = (PAGES | ASSETS).get(target, target.removeprefix("docs/"))
        return posixpath.relpath(there, posixpath.dirname(site) or ".")

    return _LINK.sub(on_the_site, markdown)
