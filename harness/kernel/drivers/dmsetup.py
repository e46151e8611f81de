"""Device-mapper through the `dmsetup` program: the reference, in commands that anyone can type.

One command for each call of the protocol, and at most four for the state of all devices.  A
refusal of the kernel comes back as text (``device-mapper: reload ioctl on s (254:3) failed: Invalid
argument``) and is mapped to its errno.  DM_DISABLE_UDEV makes libdevmapper manage the nodes itself;
nobody else does in a guest.

What libdevmapper does beyond the one ioctl of a call (versions, a status for a cookie) changes
nothing that a user of the device could see; a test on the whole catalogue checks that both drivers
give the same observations.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from typing import Final

from harness.errors import BadScenario, ProvisioningError
from harness.kernel.drivers.driver import WAIT_LIMIT_S, Info, Line
from harness.kernel.drivers.shell import Shell

_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_LIMIT_S: Final = 30
"""No single command takes longer, unless the kernel hangs."""
_ERRNO: Final = {os.strerror(number): number for number in sorted(errno.errorcode, reverse=True)}
_FAILED: Final = re.compile(r"failed: (.+?)\.?$", re.MULTILINE)
_GONE: Final = re.compile(r"^Device .*(does not exist|not found)\.?$", re.MULTILINE)
_DEPENDENCY: Final = re.compile(r"\((\d+), (\d+)\)")
_ONE_LINE: Final = re.compile(r'[ !"$-~]+')
_LINE_BYTES_MAX: Final = 4094
"""dmsetup reads a line into 4096 bytes (``LINE_SIZE``), with its newline and NUL."""
_FIELDS: Final = "name,uuid,major,minor,open,events,attr"


def errno_of(stderr: str) -> int:
    """The errno behind what `dmsetup` printed; EIO if it says nothing that we know.

    The last ``failed:`` counts: libdevmapper may complain about a node before the ioctl itself.
    """
    for said in reversed(_FAILED.findall(stderr)):
        if said in _ERRNO:
            return _ERRNO[said]
    if _GONE.search(stderr):
        return errno.ENXIO
    return errno.EIO


def by_device(text: str) -> dict[str, str | None]:
    """Device → its lines, from `dmsetup status` or `table` of all devices; None without a table."""
    found: dict[str, list[str]] = {}
    for printed in text.split("\n"):
        name, colon, line = printed.partition(":")
        if colon:
            found.setdefault(name, []).extend([line[1:]] if line.strip() else [])
    return {name: "\n".join(lines) if lines else None for name, lines in found.items()}


def table_text(lines: Sequence[Line]) -> str:
    """A table as `dmsetup load` reads it from its standard input.

    Raises:
        BadScenario: it would not read exactly these lines.
    """
    text = ""
    for line in lines:
        said = f"{line.start} {line.length} {line.type} {line.params}"
        # There, a newline begins another line, and so does the end of its buffer; # ends one, and
        # what follows NUL is not seen.
        if len(said.encode()) > _LINE_BYTES_MAX or not _ONE_LINE.fullmatch(said):
            raise BadScenario(f"dmsetup would not read {said[:80]!r} as one line of a table")
        text += said + "\n"
    return text


class DmsetupDriver:
    """Device-mapper through `dmsetup` (harness.kernel.drivers.driver.Driver)."""

    label = "dmsetup"

    def __init__(self) -> None:
        found = shutil.which("dmsetup", path=_PATH)
        if found is None:
            raise ProvisioningError(
                "the program dmsetup is missing: apt-get install dmsetup, or use the driver "
                "'ioctl', which needs no program"
            )
        self._program = found
        self._shell = Shell({"PATH": _PATH, "LC_ALL": "C", "DM_DISABLE_UDEV": "1"})

    def close(self) -> None:
        """Stop the shell that runs the commands."""
        self._shell.close()

    def _run(self, *arguments: str, given: str = "", limit_s: float = COMMAND_LIMIT_S) -> str:
        """Standard output of one command.

        Raises:
            OSError: the kernel refused; TimeoutError: it took longer than ``limit_s``.
        """
        status, output, errors = self._shell.run(
            [self._program, *arguments], given=given, limit_s=limit_s
        )
        if status:
            said = errors + output
            raise OSError(
                errno_of(said), said.strip() or f"dmsetup ended with {status}", " ".join(arguments)
            )
        return output

    def create(self, name: str, uuid: str) -> None:
        """``dmsetup create --notable``."""
        self._run("create", "--notable", "--addnodeoncreate", "--uuid", uuid, "--", name)

    def load(self, name: str, lines: Sequence[Line], *, read_only: bool = False) -> None:
        """``dmsetup load``, the table on standard input."""
        self._run(
            "load", *(["--readonly"] if read_only else []), "--", name, given=table_text(lines)
        )

    def clear(self, name: str) -> None:
        """``dmsetup clear``."""
        self._run("clear", "--", name)

    def resume(self, name: str) -> None:
        """``dmsetup resume``."""
        self._run("resume", "--", name)

    def suspend(self, name: str, *, flush: bool = True, lockfs: bool = True) -> None:
        """``dmsetup suspend``."""
        self._run(
            "suspend",
            *([] if flush else ["--noflush"]),
            *([] if lockfs else ["--nolockfs"]),
            "--",
            name,
        )

    def remove(self, name: str) -> None:
        """``dmsetup remove``."""
        self._run("remove", "--", name)

    def rename(self, name: str, to: str) -> None:
        """``dmsetup rename``."""
        self._run("rename", "--", name, to)

    def message(self, name: str, sector: int, text: str) -> str:
        """``dmsetup message``."""
        return self._run("message", "--", name, str(sector), text).strip("\n")

    def _lines(self, what: str, name: str, inactive: bool) -> str:
        return self._run(what, *(["--inactive"] if inactive else []), "--", name).strip("\n")

    def status(self, name: str, *, inactive: bool = False) -> str:
        """``dmsetup status``."""
        return self._lines("status", name, inactive)

    def table(self, name: str, *, inactive: bool = False) -> str:
        """``dmsetup table``."""
        return self._lines("table", name, inactive)

    def wait(self, name: str, event: int) -> int:
        """``dmsetup wait``, then the event number."""
        self._run("wait", "--", name, str(event), limit_s=WAIT_LIMIT_S)
        return int(self._run("info", "-c", "--noheadings", "-o", "events", "--", name))

    def dependencies(self, name: str) -> tuple[str, ...]:
        """``dmsetup deps``."""
        found = _DEPENDENCY.findall(self._run("deps", "--", name))
        return tuple(sorted(f"{major}:{minor}" for major, minor in found))

    def _info(self) -> dict[str, list[str]]:
        """Name → the other fields of ``dmsetup info``."""
        printed = self._run("info", "-c", "--noheadings", "--separator", "|", "-o", _FIELDS)
        rows = [line.strip().split("|") for line in printed.splitlines()]
        return {row[0]: row[1:] for row in rows if len(row) == len(_FIELDS.split(","))}

    def survey(self, names: Iterable[str]) -> dict[str, Info]:
        """At most four commands for all devices together."""
        rows = self._info()
        wanted = [name for name in names if name in rows]
        if not wanted:
            return {}
        # A command costs a guest 20 ms: ask only for tables that exist.
        attributes_of = [row[-1] for row in rows.values()]
        live = any("L" in attributes for attributes in attributes_of)
        status = by_device(self._run("status")) if live else {}
        table = by_device(self._run("table")) if live else {}
        inactive = (
            by_device(self._run("table", "--inactive"))
            if any("I" in attributes for attributes in attributes_of)
            else {}
        )
        found = {}
        for name in wanted:
            uuid, major, minor, opened, events, attributes = rows[name]
            found[name] = Info(
                name=name,
                uuid=uuid,
                number=f"{major}:{minor}",
                open=int(opened),
                event=int(events),
                suspended=attributes[2] == "s",
                read_only=attributes[3] == "r",
                status=status.get(name),
                table=table.get(name),
                inactive=inactive.get(name),
            )
        return found

    def devices(self) -> dict[str, str]:
        """``dmsetup info``."""
        return {name: row[0] for name, row in sorted(self._info().items())}

    def targets(self) -> dict[str, str]:
        """``dmsetup targets``."""
        rows = [line.split() for line in self._run("targets").splitlines()]
        return dict(sorted((row[0], row[1].removeprefix("v")) for row in rows if len(row) == 2))
