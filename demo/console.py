"""Lines on the screen: the time since the start, who, what. Colours only on a terminal."""

from __future__ import annotations

import os
import sys
import time

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1"}


class Console:
    """Prints what happens, each line at once, so that a piped log can be followed."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def paint(self, text: str, colour: str) -> str:
        """Colour a string, if the screen can show it."""
        return f"\033[{_COLOURS[colour]}m{text}\033[0m" if self._colours else text

    def title(self, text: str) -> None:
        """Begin a part of the story."""
        print(f"\n{self.paint(text, 'bold')}", flush=True)

    def say(self, who: str, what: str, colour: str = "") -> None:
        """Print one event."""
        elapsed = time.monotonic() - self._started
        shown = self.paint(what, colour) if colour else what
        print(f"{elapsed:6.2f} s  {who:<8}  {shown}", flush=True)

    def text(self, text: str, indent: int = 4) -> None:
        """Print several lines as they are."""
        for line in text.splitlines():
            print(" " * indent + line, flush=True)
