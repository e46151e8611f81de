"""LVM2's debug log as steps: what the real LVM asked device-mapper to do, in order.

libdevmapper logs every ioctl before it is made (libdm-iface.c ``_do_dm_ioctl``), and LVM logs what
it is for (libdm-deptree.c):

    Loading table for vg-snap (254:4).
    Adding target to (254:4): 0 8192 snapshot 254:2 254:3 P 8
    dm table   (254:4) [ opencount flush ]   [16384] (*1)
    dm reload   (254:4) [ noopencount flush ]   [2048] (*1)

A load whose table turns out to be the one already there is *suppressed*: there is no ``dm reload``
then, and no step.  Numbers become ``{name}`` by means of the lines that contain both.  An ioctl
that the kernel refuses is followed by a line that says so.

The log is read with ``debug_file_fields = ["message"]``, one message per line.
"""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from harness.errors import DmsnapError
from harness.trace.observations import UEvent
from harness.trace.steps import (
    AnyStep,
    Clear,
    Create,
    Load,
    Remove,
    Rename,
    Resume,
    Suspend,
    TargetLine,
    Write,
)
from harness.units import SECTOR_BYTES

ASKING: Final = frozenset(
    {"info", "deps", "status", "table", "version", "versions", "names", "mknodes"}
)
"""Commands that change nothing."""
_SECTORS: Final = {"B": 1 / SECTOR_BYTES, "KiB": 2, "MiB": 2048}
_NUMBER: Final = r"\((\d+:\d+)\)"
_IOCTL: Final = re.compile(r"dm ([a-z_]+) +(.*?) *\[ ([a-z ]+) \]")
_NAMED: Final = re.compile(
    rf"(?:Loading table for|Resuming|Suspending|Removing|Suppressed) (\S+) {_NUMBER}"
)
_FOUND: Final = re.compile(r"Found dev (\d+:\d+) /dev/mapper/(\S+)")
_RENAMED: Final = re.compile(rf"Renaming (\S+) {_NUMBER} to (\S+)")
_TARGET: Final = re.compile(rf"Adding target to {_NUMBER}: (\d+) (\d+) (\S+) ?(.*)")
_ZEROED: Final = re.compile(
    r"Initializing ([\d.]+) (B|KiB|MiB) of logical volume (\S+)/(\S+) with value 0\."
)
_REFUSED: Final = re.compile(r"device-mapper: .*ioctl on .* failed: (.*)")
_SHOWN: Final = 200
"""How many characters of a line an error quotes."""
_WORD: Final = re.compile(r"\d+:\d+")
_ERRNOS: Final = {os.strerror(number): name for number, name in errno.errorcode.items()}


class LvmLogError(DmsnapError):
    """An LVM log says something that this reader does not know."""


def _place(number: int, line: str) -> str:
    return f"line {number} of LVM's log ({line.strip()[:_SHOWN]})"


class Call(NamedTuple):
    """A step that LVM took, and the name of the errno if the kernel refused it, else None."""

    step: AnyStep
    error: str | None = None


class LogReader:
    """Reads the logs of one boot, in order."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._targets: dict[str, list[TargetLine]] = {}

    @property
    def names(self) -> dict[str, str]:
        """``major:minor`` → name, as far as the logs have said."""
        return dict(self._names)

    def read(self, text: str) -> list[Call]:
        """The steps of one command.

        Raises:
            LvmLogError: a line is not understood.
        """
        calls: list[Call] = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self._line(line.strip(), calls)
            except LvmLogError as fault:
                raise LvmLogError(f"{_place(number, line)}: {fault}") from None
            except (ArithmeticError, LookupError, ValueError):
                # Words are missing, or a number is malformed: a guest may write anything.
                raise LvmLogError(f"{_place(number, line)}: LVM does not write this") from None
        return calls

    def _line(self, line: str, calls: list[Call]) -> None:
        if match := _NAMED.match(line):
            self._names[match[2]] = match[1]
            if line.startswith(("Loading", "Suppressed")):
                self._targets[match[1]] = []
        elif match := _FOUND.match(line):
            self._names[match[1]] = match[2]
        elif match := _RENAMED.match(line):
            self._names[match[2]] = match[1]
        elif match := _TARGET.match(line):
            name = self._name(match[1])
            args = " ".join(self._word(word) for word in match[5].split())
            self._targets.setdefault(name, []).append(
                TargetLine(int(match[2]), int(match[3]), match[4], args)
            )
        elif match := _ZEROED.match(line):
            sectors = float(match[1]) * _SECTORS[match[2]]
            calls.append(
                Call(
                    Write(
                        device=device_name(match[3], match[4]),
                        sector=0,
                        sectors=int(sectors),
                        fill="zero",
                    )
                )
            )
        elif match := _REFUSED.match(line):
            if not calls or match[1] not in _ERRNOS:
                raise LvmLogError("a refusal without a known ioctl before it")
            calls[-1] = calls[-1]._replace(error=_ERRNOS[match[1]])
        elif (match := _IOCTL.match(line)) and match[1] not in ASKING:
            calls.append(Call(self._step(match[1], match[2].split(), match[3].split())))

    def _step(self, command: str, words: list[str], flags: list[str]) -> AnyStep:
        if command == "create":
            return Create(name=words[0])
        if command == "rename":
            old, new = words
            self._names |= {number: new for number, name in self._names.items() if name == old}
            return Rename(name=old, to=new)
        number = words[-1].strip("()")
        name = self._name(number)
        match command:
            case "reload":
                return Load(
                    name=name,
                    table=tuple(self._targets.pop(name, ())),
                    **({"read_only": True} if "readonly" in flags else {}),
                )
            case "resume":
                return Resume(name=name)
            case "suspend":
                refused = {
                    field: False
                    for flag, field in (("noflush", "flush"), ("skiplockfs", "lockfs"))
                    if flag in flags
                }
                return Suspend(name=name, **refused)
            case "remove":
                del self._names[number]
                return Remove(name=name)
            case "clear":
                return Clear(name=name)
        raise LvmLogError(f"the ioctl {command} is not known")

    def _name(self, number: str) -> str:
        try:
            return self._names[number]
        except KeyError:
            raise LvmLogError(f"device {number} has no name yet") from None

    def _word(self, word: str) -> str:
        return f"{{{self._name(word)}}}" if _WORD.fullmatch(word) else word


def name_events(
    events: Sequence[UEvent],
    calls: Sequence[Call],
    before: Mapping[str, str],
    after: Mapping[str, str],
) -> tuple[UEvent, ...]:
    """The uevents of one command, with names in place of ``major:minor``.

    The kernel may give one number to several devices in turn.  They are created in the
    order of the log, and each creation is one ``add``.

    ``before`` and ``after`` say what the numbers meant before and after the command.

    Raises:
        LvmLogError: an event belongs to a device that the log does not know.
    """
    created = iter(
        [call.step.name for call in calls if isinstance(call.step, Create) and call.error is None]
    )
    anew = {event.device for event in events if event.action == "add"}
    # A device that stays has its new name, if it was renamed.
    names = {
        number: name if number in anew else after.get(number, name)
        for number, name in {**after, **before}.items()
    }
    named = []
    for event in events:
        if event.action == "add":
            names[event.device] = next(created, "")
        if not names.get(event.device):
            raise LvmLogError(f"{event.action} of device {event.device}, which no command created")
        named.append(msgspec.structs.replace(event, device=names[event.device]))
    return tuple(named)


def device_name(group: str, volume: str) -> str:
    """The mapped device of a logical volume (libdm-string.c ``dm_build_dm_name``)."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
