"""The kernel log of one step, from /dev/kmsg.

A marker written to /dev/kmsg opens each step, so the console log of a guest that died shows which
step it was in.  printk stores a record before it returns, so reading everything right after the
step gives every line of the step.  A line that came between two steps
(from work in the background) belongs to the second.

**Which lines count.**  Only records of the kernel itself (facility 0), and of these

- lines of device-mapper (``device-mapper: …``),
- lines that name one of our devices (``dm-3: detected capacity change …``),
- a kernel's cry for help (BUG, WARNING, Oops, hung task, …), which must never go unnoticed.

Everything else (the random generator, drivers of the guest) comes at unrelated times.  Deliberately
left out are lines that the kernel rate-limits with private state that cannot be switched off (ten
in five seconds): whether they appear depends on the steps before.  These are the block layer's own
``attempt to access beyond end of device``, ``Buffer I/O error on dev``, ``I/O error, dev`` and
device-mapper's ``mapping table unavailable``, whose error is observed anyway; and, since 6.1 limits
it in the same way, ``Trying to write to read-only block-device``, which is not an error.

Numbers and kernel names of our devices become ``{name}``.  What the kernel prints from freed
memory (``device … not in table devices list``, docs/KERNEL-DEFECTS.md) becomes ``{freed}``:
it may be the old name, nothing, or unrelated bytes.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

LOST: Final = "dmsnap: records of the kernel log were lost"
_RECORD_BYTES: Final = 16 << 10
_MARK: Final = "dmsnap:"
_ESCAPE: Final = re.compile(r"\\x([0-9a-f]{2})")
_NUMBER: Final = re.compile(r"(?<![\d:.])(\d+:\d+)(?!\d|:\d)")
_KERNEL_NAME: Final = re.compile(r"\bdm-(\d+)\b(?!:\d)")
_NODE: Final = re.compile(r"/dev/mapper/([A-Za-z0-9_.+-]+)")
_ANYTHING: Final = re.compile(r"\d:\d|dm-\d|/dev/mapper/")
_SPLAT: Final = re.compile(
    r"^(BUG\b|kernel BUG|WARNING:|Oops|general protection|Unable to handle|INFO: task|"
    r"INFO: rcu|rcu:.*stall|Kernel panic|Call Trace|divide error|Modules linked in:|"
    r"------------\[ cut here)|possible recursive locking|refcount_t:|list_(add|del) corruption|"
    r"\bKASAN\b|\bUBSAN\b|\bKCSAN\b"
)
_FREED: Final = re.compile(r"(?<=: device ).*(?= not in table devices list$)", re.DOTALL)
_RATE_LIMITED: Final = re.compile(
    r"attempt to access beyond end of device|^Buffer I/O error on dev|I/O error, dev |"
    r"rw=\d+, (want|sector)=|callbacks suppressed$|mapping table unavailable, erroring io|"
    r"^Trying to write to read-only block-device"
)


class Record(NamedTuple):
    """One record of /dev/kmsg."""

    facility: int
    level: int
    sequence: int
    text: str


def parse(raw: bytes) -> Record | None:
    """A record as /dev/kmsg gives it: ``prefix,sequence,time,flags;text`` and dictionary lines."""
    head, found, rest = raw.decode("utf-8", "replace").partition(";")
    fields = head.split(",")
    if not found or len(fields) < 2 or not (fields[0].isdigit() and fields[1].isdigit()):
        return None
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), rest.split("\n", 1)[0])
    return Record(int(fields[0]) >> 3, int(fields[0]) & 7, int(fields[1]), text)


def normalise(text: str, numbers: Mapping[str, str]) -> str:
    """``text`` with device numbers and kernel names of our devices translated back to ``{name}``.

    ``numbers`` maps ``major:minor`` to names; mapped devices share one major number.
    """
    text = _FREED.sub("{freed}", text)
    if not _ANYTHING.search(text):
        return text
    minors = {number.split(":")[1]: name for number, name in numbers.items()}
    names = set(numbers.values())

    def by_number(match: re.Match[str]) -> str:
        return f"{{{numbers[match[1]]}}}" if match[1] in numbers else match[0]

    def by_minor(match: re.Match[str]) -> str:
        return f"{{{minors[match[1]]}}}" if match[1] in minors else match[0]

    def by_node(match: re.Match[str]) -> str:
        return f"{{{match[1]}}}" if match[1] in names else match[0]

    text = _NODE.sub(by_node, text)
    text = _KERNEL_NAME.sub(by_minor, text)
    return _NUMBER.sub(by_number, text)


def wanted(record: Record, numbers: Mapping[str, str]) -> bool:
    """Whether a record belongs into an observation (see the module docstring)."""
    if record.facility != 0 or _RATE_LIMITED.search(record.text):
        return False
    return (
        record.text.startswith("device-mapper:")
        or bool(_SPLAT.search(record.text))
        or normalise(record.text, numbers) != record.text
    )


class KernelLog:
    """Reads /dev/kmsg step by step."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def close(self) -> None:
        """Close the log."""
        os.close(self._fd)

    def mark(self, text: str) -> None:
        """Write our own line into the log."""
        os.write(self._fd, f"<6>{_MARK} {text}\n".encode())

    def skip(self) -> None:
        """Forget every line so far."""
        os.lseek(self._fd, 0, os.SEEK_END)

    def records(self) -> list[Record]:
        """Every record since the mark or the last call; for lost ones, one that says so."""
        return read_records(lambda: os.read(self._fd, _RECORD_BYTES))

    def lines(self, numbers: Mapping[str, str]) -> tuple[str, ...]:
        """The lines that count, normalised."""
        return tuple(
            normalise(record.text, numbers) if record.facility == 0 else record.text
            for record in self.records()
            if record.text == LOST or wanted(record, numbers)
        )


def read_records(read: Callable[[], bytes]) -> list[Record]:
    """Call ``read`` until it would block; EPIPE means that the ring overtook the reader."""
    found: list[Record] = []
    while True:
        try:
            raw = read()
        except BlockingIOError:
            return found
        except OSError as fault:
            if fault.errno == errno.EPIPE:
                found.append(Record(1, 4, -1, LOST))
                continue
            raise
        if not raw:
            return found
        record = parse(raw)
        if record is not None:
            found.append(record)


def unlimit(root: Path = Path("/proc/sys/kernel")) -> None:
    """Switch off the rate limits that can be switched off: those of /dev/kmsg and of printk."""
    for name, value in (("printk_devkmsg", "on\n"), ("printk_ratelimit", "0\n")):
        # A kernel booted with printk.devkmsg= refuses the change: it does as it was told.
        with contextlib.suppress(OSError):
            (root / name).write_text(value)
