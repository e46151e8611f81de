"""The journal: how results leave a guest that may die at any moment.

One JSON line per record, appended, and written out of the guest at once.  A step's `Started` has
left the guest before the step runs, so a lost guest names the scenario and the step; the reader
drops a line that the loss cut short.  The guest writes, the host only reads.
"""

import ctypes
import os
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec
from msgspec import Struct

from harness.errors import BadTrace, NotAFile
from harness.files import open_stranger
from harness.trace.files import check_observation
from harness.trace.observations import Observation
from harness.trace.steps import encode


class Ready(Struct, frozen=True, tag_field="record", tag="ready", omit_defaults=True):
    """The guest is up: what its kernel says about itself, and what probing it found.

    ``release`` and ``version`` are those of uname; ``targets`` maps a target to its version;
    ``probe`` holds the facts a twin profile is made from (harness.twin.profile).
    """

    release: str
    version: str
    machine: str = ""
    targets: dict[str, str] = {}
    probe: dict[str, bool | int | str] = {}
    driver: str = "ioctl"


class Begin(Struct, frozen=True, tag_field="record", tag="begin"):
    """A scenario starts."""

    scenario: str
    seed: int


class Started(Struct, frozen=True, tag_field="record", tag="started"):
    """Step ``step`` of the scenario that began last is about to run."""

    step: int


class Observed(Struct, frozen=True, tag_field="record", tag="observed"):
    """Step ``observation.step`` ran."""

    observation: Observation


class End(Struct, frozen=True, tag_field="record", tag="end", omit_defaults=True):
    """The scenario is over.

    ``leftovers`` are devices that could not be removed: the guest must be replaced.  ``fault`` says
    why the scenario could not be carried out (a bad scenario, a full disk), empty if it was;
    ``unsupported`` means that the kernel lacks something.
    """

    scenario: str
    leftovers: tuple[str, ...] = ()
    fault: str = ""
    unsupported: bool = False


class Done(Struct, frozen=True, tag_field="record", tag="done"):
    """The guest did everything it was asked to do."""


Record = Ready | Begin | Started | Observed | End | Done

decode_record = msgspec.json.Decoder(Record).decode

LINE_BYTES_MAX: Final = 16 << 20
"""No record is that long; a guest that writes forever must not exhaust the host's memory."""
SCENARIO_BYTES_MAX: Final = 32 << 20
"""Nor are all records of one scenario, whose observations are kept until it ends."""
JOURNAL_BYTES_MAX: Final = 256 << 20
"""Nor is a whole journal: that of the catalogue in one guest has 10 MiB."""
_SHOWN_BYTES: Final = 200


_WRITE_AND_WAIT: Final = 1 | 2 | 4
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER."""
_sync_file_range = ctypes.CDLL(None).sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class JournalWriter:
    """Appends records; each is safe from a dying kernel before `write` returns."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, *records: Record) -> None:
        """Append records, and make sure, once for all of them, that they leave this machine.

        Raises:
            OSError: the disk is full or gone; nothing more can be reported.
        """
        lines = b"".join(encode(record) + b"\n" for record in records)
        while lines:
            lines = lines[os.write(self._fd, lines) :]
        # The file is the host's, and this machine may die with the next step: its pages must be
        # written first.  An fsync would also wait for the host's disk, which outlives this machine.
        if _sync_file_range(self._fd, 0, 0, _WRITE_AND_WAIT):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> "JournalWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class JournalReader:
    """Follows a journal that grows; each call of `new` returns the whole records since the last.

    A last line without a newline is kept back until it is complete.  A line that is not a valid
    record goes to ``faults``, and nothing after it is read: what a guest says after rubbish no
    longer counts, what it said before still does.  Rubbish is also a line that does not end, a
    scenario or a journal that is too long, contents that no device has, and anything that is not
    a regular file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._since_begin = 0
        self.faults: list[str] = []

    def new(self) -> list[Record]:
        """Records added since the last call, up to the first fault.

        Raises:
            OSError: a journal that existed, or its directory, is gone, or cannot be read.
        """
        records: list[Record] = []
        try:
            with os.fdopen(open_stranger(self._path, JOURNAL_BYTES_MAX), "rb") as file:
                more = not self.faults
                while more:
                    file.seek(self._offset)
                    data = file.read(LINE_BYTES_MAX)
                    whole = data[: data.rfind(b"\n") + 1]
                    self._offset += len(whole)
                    self._decode(whole, records)
                    more = len(data) == LINE_BYTES_MAX and not self.faults
                    if more and not whole:
                        self.faults.append(
                            f"a line of more than {LINE_BYTES_MAX} bytes: {data[:_SHOWN_BYTES]!r}"
                        )
                        more = False
        except NotAFile as fault:
            self.faults.append(str(fault))
        except FileNotFoundError:
            # The guest has not created it yet, unless there was one or its directory is gone.
            if self._offset or not self._path.parent.exists():
                raise
        return records

    def _decode(self, lines: bytes, records: list[Record]) -> None:
        """Append the complete lines to ``records``, up to the first fault."""
        for line in lines.splitlines():
            try:
                record = decode_record(line)
                self._since_begin = (
                    0 if isinstance(record, Begin) else (self._since_begin + len(line))
                )
                if self._since_begin > SCENARIO_BYTES_MAX:
                    raise BadTrace(f"more than {SCENARIO_BYTES_MAX} bytes of one scenario")
                if isinstance(record, Observed):
                    check_observation(record.observation)
                records.append(record)
            # The last three: a string that is not UTF-8, brackets nested too deep, and what
            # no device can have shown.
            except (msgspec.MsgspecError, UnicodeError, RecursionError, BadTrace) as fault:
                self.faults.append(f"{fault}: {line[:_SHOWN_BYTES]!r}")
                break
