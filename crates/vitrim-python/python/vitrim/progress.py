"""Progress of long work."""

from __future__ import annotations

import sys
import time
from typing import Any, Callable, Optional

#: Updates or steps between two lines if there is no terminal.
ENTRIES_A_LINE = 25
#: Shortest time between two changes of a terminal's line, seconds.
REFRESH = 0.2


class Teller:
    """Writes the library's progress events to ``sys.stderr`` (also in a notebook), and calls ``callback``."""

    def __init__(self, progress: bool, callback: Optional[Callable[[dict[str, Any]], object]] = None) -> None:
        self.progress = progress
        self.callback = callback
        self.shown = 0
        self.refreshed = 0.0

    def note(self, line: str) -> None:
        """Prints a line of text."""
        if self.progress:
            self.clear()
            print(line, file=sys.stderr, flush=True)

    def step(self, what: str, done: int, of: int) -> None:
        """Shows the progress of a task."""
        if self.progress and sys.stderr.isatty():
            self.show(f"{what} {done}/{of}", done == of)

    def entry(self, unit: str, done: int, of: int, line: str, figures: dict[str, Any]) -> None:
        """Shows the progress of a training run, with the figures of a log entry."""
        text = f"{unit} {done}/{of}: {line}"
        if self.progress and sys.stderr.isatty():
            self.show(text, True)
        elif self.progress and (done % ENTRIES_A_LINE == 0 or done in (1, of)):
            print(text, file=sys.stderr, flush=True)
        if self.callback is not None:
            self.callback({**figures, f"{unit}s": of})

    def show(self, text: str, at_once: bool) -> None:
        """Prints a line that the next one replaces."""
        if at_once or time.monotonic() - self.refreshed > REFRESH:
            print("\r" + text.ljust(self.shown), end="", file=sys.stderr, flush=True)
            self.shown, self.refreshed = len(text), time.monotonic()

    def clear(self) -> None:
        """Erases the line of :meth:`show`."""
        if self.shown:
            print("\r" + " " * self.shown + "\r", end="", file=sys.stderr, flush=True)
            self.shown = 0
