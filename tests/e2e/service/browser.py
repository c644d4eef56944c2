"""A real Chromium, without a window."""

from __future__ import annotations

import base64
import importlib.resources
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

__all__ = ["Browser", "open_browser"]

_SERIOUS = ("serious", "critical")


class Browser:
    """What tests ask of it. Each has a profile of its own."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def look(self, *, width: int, dark: bool, height: int = 900) -> None:
        """Be a screen of a width that prefers light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip

    def _ask(self, command: str, **words: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, words)

    def run(self, script: str, *words: Any) -> Any:
        """Run JavaScript in the page, and return what it returns."""
        return self.driver.execute_script(script, *words)

    def text(self, name: str) -> str:
        """Return the text of an element, by its id, as it is shown."""
        return str(self.run("return document.getElementById(arguments[0]).innerText", name))

    def fill(self, name: str, text: str) -> None:
        """Type into a field, by its id."""
        field = self.driver.find_element("id", name)
        field.clear()
        field.send_keys(text)

    def errors(self) -> list[str]:
        """Return what the page complained of since the last time, such as broken policies."""
        log = self.driver.get_log("browser")
        return [str(each["message"]) for each in log if each["level"] == "SEVERE"]

    def accessibility(self) -> list[str]:
        """Return the serious findings of axe."""
        script = importlib.resources.files("axe_core_python") / "axe.min.js"
        self.run(script.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run().then(done, (error) => done({violations: [{id: String(error),"
            " impact: 'critical', nodes: []}]}));"
        )
        return [
            f"{each['id']}: {node.get('html', '')[:200]} {node.get('failureSummary', '')}"
            for each in found["violations"]
            if each["impact"] in _SERIOUS
            for node in each["nodes"] or [{}]
        ]

    def width_needed(self) -> int:
        """Return how wide the page is, with what stands out of it."""
        return int(self.run("return document.documentElement.scrollWidth"))

    def picture(self, file: Path, *, height: int) -> None:
        """Write what is shown, from the top of the page on, as PNG."""
        width = int(self.run("return innerWidth"))
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start a Chromium, and end it.

    Args:
        folder: For its profile.
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "chromium is not installed: make setup-long"
    assert driver, "chromedriver (chromium-driver) is not installed: make setup-long"
    options = Options()
    options.binary_location = program
    for word in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}",
    ):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    try:
        chrome.set_script_timeout(60)
        yield Browser(chrome)
    finally:
        chrome.quit()
