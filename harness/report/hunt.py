"""What a hunt shows while it goes on: lives, steps a second, finds.

On a terminal one line moves; elsewhere a line comes every so often.  Finds are lines of their own.
"""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.report.gate import guarded, printable

EVERY_S: Final = 30.0
"""Where nothing moves, so often there is a line."""


class HuntDisplay:
    """Shows how far a hunt is; a context, so that the moving line goes in the end."""

    def __init__(self, kernels: Sequence[str], seed: int, console: Console | None = None) -> None:
        self._console = guarded(console or Console(highlight=False, emoji=False))
        self._kernels = kernels
        self._seed = seed
        self._started = self._said = time.monotonic()
        self._line = ""
        self._live: Live | None = None

    def __enter__(self) -> "HuntDisplay":
        self._console.print(
            Text(printable(f"lives of seed {self._seed} on {', '.join(self._kernels)}")),
            soft_wrap=True,
        )
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(Text(""), console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        live, self._live = self._live, None
        if live:
            live.stop()

    def show(self, lives: int, steps: int, features: int, finds: int, lost: int) -> None:
        """How far it is."""
        now = time.monotonic()
        seconds = max(now - self._started, 1e-9)
        self._line = (
            f"{seconds:.0f} s: {lives} lives, {steps} steps, {steps / seconds:.0f} steps a second, "
            f"{features} features, {finds} finds, {lost} guests lost"
        )
        if self._live:
            self._live.update(Text(self._line, no_wrap=True, overflow="ellipsis"))
        elif now - self._said >= EVERY_S:
            self._said = now
            self._console.print(Text(self._line), soft_wrap=True)

    def find(self, kernel: str, scenario: str, why: str, where: str) -> None:
        """Something that differs."""
        self._console.print(
            Text(printable(f"{kernel}  {scenario}: {why}  ({where})"), "bold red"), soft_wrap=True
        )

    def summary(self) -> str:
        """The last that was shown."""
        return self._line or "nothing was carried out"
