"""Which functions of the module a scenario reaches, as counted by the kernel (kprobe events).

A probe is set on the entry of each function before the module is loaded, so that what runs during
loading is counted too; the kernel resolves the names when the module arrives
(Documentation/trace/kprobetrace.rst).  ``kprobe_profile`` counts the hits; the trace buffer, which
nobody reads, is off.

The counts go into a separate file, one line for each scenario: verdicts do not depend on them, and
the journal stays unchanged.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from harness.errors import GuestLost, NotAFile, ProvisioningError
from harness.files import read_stranger

FILE: Final = "coverage.jsonl"
LOADING: Final = "(module is loaded and probed)"
UNLOADING: Final = "(module is unloaded)"
"""In place of a scenario's name."""
_TRACING: Final = Path("/sys/kernel/tracing")
_MODULE: Final = "dm_snapshot"
_GROUP: Final = "dmsnap"
_BYTES_MAX: Final = 16 << 20


class Reached(msgspec.Struct, frozen=True):
    """What one scenario reached: function → how often."""

    scenario: str
    functions: dict[str, int]


class Coverage:
    """Probes on functions of the module, which must not be loaded yet.

    Args:
        functions: names of the module's symbols.
        directory: where the counts are written.
        tracing: where tracefs is.

    Raises:
        ProvisioningError: this kernel has no kprobe events, or refuses a probe.
    """

    def __init__(self, functions: Sequence[str], directory: Path, tracing: Path = _TRACING) -> None:
        self._tracing = tracing
        self._before: dict[str, int] = {}
        self._file = directory / FILE
        try:
            for name in functions:
                self._append("kprobe_events", f"p:{_GROUP}/{name} {_MODULE}:{name}\n")
            (tracing / "tracing_on").write_text("0")
            (tracing / "events" / _GROUP / "enable").write_text("1")
        except OSError as fault:
            raise ProvisioningError(
                f"functions of the module cannot be counted ({fault.filename or tracing}: "
                f"{fault.strerror}): the kernel needs CONFIG_KPROBE_EVENTS, and the module must "
                "not be loaded yet"
            ) from fault

    def _append(self, name: str, text: str) -> None:
        # Not a file object, which would seek to the end first; tracefs refuses that.
        fd = os.open(self._tracing / name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _counts(self) -> dict[str, int]:
        rows = (
            line.split() for line in (self._tracing / "kprobe_profile").read_text().splitlines()
        )
        return {row[0]: int(row[1]) for row in rows}

    def note(self, scenario: str) -> None:
        """Record what was reached since the last call."""
        counts = self._counts()
        reached = {
            name: count - self._before.get(name, 0)
            for name, count in counts.items()
            if count > self._before.get(name, 0)
        }
        self._before = counts
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode(Reached(scenario, reached)) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Remove the probes."""
        with contextlib.suppress(OSError):
            (self._tracing / "events" / _GROUP / "enable").write_text("0")
            (self._tracing / "kprobe_events").write_text("")


def read(directory: Path) -> list[Reached]:
    """What the guests below ``directory`` recorded; a scenario with two attempts appears twice.

    Raises:
        GuestLost: one of them wrote rubbish.
    """
    try:
        return [
            msgspec.json.decode(line, type=Reached)
            for file in sorted(directory.glob(f"*/{FILE}"))
            for line in read_stranger(file, _BYTES_MAX).splitlines()
        ]
    except (NotAFile, msgspec.MsgspecError, UnicodeError, RecursionError) as fault:
        raise GuestLost(f"what a guest counted is rubbish: {fault}") from None
