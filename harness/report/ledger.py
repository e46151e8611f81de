"""The finished results of a run, written as they come, so that ``--resume`` can continue.

``progress.jsonl`` has one line for each result, with the key that it was made under: a digest of
everything that it follows from (dmsnap itself, the kernel and its modules, the scenario, the
options).  A later run takes a result over only under the same key, so a rebuilt kernel or a changed
scenario runs again.  A truncated line is ignored.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from harness.errors import ProvisioningError
from harness.files import read_given, write_whole
from harness.trace.steps import encode
from harness.verdict.result import RESULTS_BYTES_MAX, Result, RunReport

LEDGER_NAME: Final = "progress.jsonl"

Keys = Mapping[tuple[str, str], str]
"""(kernel, scenario) → key of its result."""


class _Line(Struct, frozen=True):
    key: str
    result: Result


class Ledger:
    """A reporter that writes each result down at once.

    Args:
        path: the file.
        keys: for every result that the run can give.
    """

    def __init__(self, path: Path, keys: Keys) -> None:
        self._path = path
        self._keys = keys
        self._kept: set[tuple[str, str]] = set()
        self._file: BufferedWriter | None = None

    @staticmethod
    def check(path: Path) -> None:
        """Check that there is a run to resume.

        Raises:
            ProvisioningError: there is no run.
        """
        if not path.is_file():
            raise ProvisioningError(
                f"there is no run to resume in {path.parent}; leave out --resume, or give "
                "the directory of the run with --report"
            )

    def finished(self) -> list[Result]:
        """The results of an earlier run that this one need not repeat.

        Raises:
            ProvisioningError: there is no earlier run.
        """
        self.check(self._path)
        lines = read_given(self._path, RESULTS_BYTES_MAX).split(b"\n")[:-1]
        found: dict[tuple[str, str], Result] = {}
        for line in lines:
            with suppress(msgspec.MsgspecError, ValueError, RecursionError):
                entry = msgspec.json.decode(line, type=_Line)
                name = entry.result.kernel, entry.result.scenario
                if self._keys.get(name) == entry.key:
                    found[name] = entry.result
        self._kept = set(found)
        return list(found.values())

    def begin(self, kernels: Sequence[str], total: int) -> None:
        """Nothing to do: the file stays until there is something new."""

    def _begin_anew(self) -> BufferedWriter:
        """Start a new file, with the kept results."""
        kept = self.finished() if self._kept else []
        write_whole(self._path, b"".join(map(self._line, kept)))
        return self._path.open("ab")

    def _line(self, result: Result) -> bytes:
        return encode(_Line(self._keys[result.kernel, result.scenario], result)) + b"\n"

    def progress(self, guest: str, doing: str) -> None:
        """Nothing to do."""

    def result(self, result: Result) -> None:
        """Write it down, unless it is a kept one."""
        if (result.kernel, result.scenario) not in self._kept:
            # A full disk costs a later run time, and this one nothing.
            with suppress(OSError):
                if self._file is None:
                    self._file = self._begin_anew()
                self._file.write(self._line(result))
                self._file.flush()

    def end(self, report: RunReport) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
