"""Device-mapper by direct ioctls on /dev/mapper/control (include/uapi/linux/dm-ioctl.h).

One ioctl for each call, with the flags that `dmsetup` gives, so that both drivers ask the kernel
the same thing.  Starting a process costs a guest 20-60 ms, an ioctl 20-60 µs: this is the driver
for everything that should be quick.

Deliberately left out: geometry, deferred removal, secure data, udev cookies (a guest has no udevd
to answer them).
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from harness.kernel.drivers.driver import NODES, WAIT_LIMIT_S, Info, Line, line_text, node

CONTROL: Final = f"{NODES}/control"

HEADER: Final = struct.Struct("=3I2IIiIII Q128s129s7x")
"""struct dm_ioctl: version, data_size, data_start, target_count, open_count, flags, event_nr,
padding, dev, name, uuid."""
SPEC: Final = struct.Struct("=QQiI16s")
"""struct dm_target_spec: sector_start, length, status, next, target_type."""
_VERSION: Final = (4, 0, 0)
_NAME_BYTES: Final = 127
_UUID_BYTES: Final = 128
_BUFFER_BYTES: Final = 2 << 10
"""The kernel copies the whole buffer in and out: most replies are short."""
_BUFFER_BYTES_MAX: Final = 16 << 20

(
    DEV_CREATE,
    DEV_REMOVE,
    DEV_RENAME,
    DEV_SUSPEND,
    DEV_STATUS,
    DEV_WAIT,
    TABLE_LOAD,
    TABLE_CLEAR,
    TABLE_DEPS,
    TABLE_STATUS,
    LIST_VERSIONS,
    TARGET_MSG,
) = range(3, 15)
LIST_DEVICES: Final = 2

READONLY: Final = 1 << 0
SUSPEND: Final = 1 << 1
STATUS_TABLE: Final = 1 << 4
ACTIVE_PRESENT: Final = 1 << 5
INACTIVE_PRESENT: Final = 1 << 6
BUFFER_FULL: Final = 1 << 8
SKIP_LOCKFS: Final = 1 << 10
NOFLUSH: Final = 1 << 11
QUERY_INACTIVE: Final = 1 << 12
DATA_OUT: Final = 1 << 16


class Header(NamedTuple):
    """The fields of struct dm_ioctl that come back, and the bytes behind it."""

    target_count: int
    open_count: int
    flags: int
    event: int
    number: str
    name: str
    uuid: str
    data: bytes


def request(command: int) -> int:
    """The ioctl number: _IOWR(0xfd, command, struct dm_ioctl)."""
    return (3 << 30) | (HEADER.size << 16) | (0xFD << 8) | command


def decode_number(device: int) -> str:
    """``major:minor`` of the kernel's huge_encode_dev() form."""
    return f"{device >> 8 & 0xFFF}:{device & 0xFF | device >> 12 & 0xFFF00}"


def pack(
    size: int,
    name: str,
    *,
    uuid: str = "",
    flags: int = 0,
    event: int = 0,
    targets: int = 0,
    data: bytes = b"",
) -> bytearray:
    """A buffer of ``size`` bytes for one ioctl.

    Raises:
        OSError: ENAMETOOLONG, as in libdevmapper.
    """
    raw_name, raw_uuid = os.fsencode(name), os.fsencode(uuid)
    if len(raw_name) > _NAME_BYTES or len(raw_uuid) > _UUID_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    buffer = bytearray(max(size, HEADER.size + len(data)))
    HEADER.pack_into(
        buffer,
        0,
        *_VERSION,
        len(buffer),
        HEADER.size,
        targets,
        0,
        flags,
        event,
        0,
        0,
        raw_name,
        raw_uuid,
    )
    buffer[HEADER.size : HEADER.size + len(data)] = data
    return buffer


def unpack(buffer: bytes | bytearray) -> Header:
    """What the kernel left in ``buffer``."""
    (_, _, _, data_size, data_start, targets, open_count, flags, event, _, device, name, uuid) = (
        HEADER.unpack_from(buffer)
    )
    return Header(
        targets,
        open_count,
        flags,
        event,
        decode_number(device),
        _text(name),
        _text(uuid),
        bytes(buffer[data_start:data_size]),
    )


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def pack_table(lines: Sequence[Line]) -> bytes:
    """Target specifications; ``next`` counts from the start of each one.

    The kernel takes a backslash as a quote for the next character; libdevmapper doubles it, so
    that a target gets what was typed, and so do we.
    """
    parts = []
    for line in lines:
        params = os.fsencode(line.params.replace("\\", r"\\")) + b"\0"
        params += bytes(-(SPEC.size + len(params)) % 8)
        kind = os.fsencode(line.type)[:15]
        parts.append(SPEC.pack(line.start, line.length, 0, SPEC.size + len(params), kind) + params)
    return b"".join(parts)


def unpack_table(data: bytes, count: int) -> str:
    """Lines of a status reply; there, ``next`` counts from the start of the data."""
    lines, at = [], 0
    for _ in range(count):
        start, length, _, following, kind = SPEC.unpack_from(data, at)
        end = data.index(b"\0", at + SPEC.size)
        lines.append(
            line_text(
                start,
                length,
                _text(kind),
                data[at + SPEC.size : end].decode("utf-8", "surrogateescape"),
            )
        )
        at = following
    return "\n".join(lines)


def unpack_versions(data: bytes) -> dict[str, str]:
    """Target → version from the reply of DM_LIST_VERSIONS."""
    found, at = {}, 0
    while True:
        following, major, minor, patch = struct.unpack_from("=4I", data, at)
        found[_text(data[at + 16 :])] = f"{major}.{minor}.{patch}"
        if not following:
            return dict(sorted(found.items()))
        at += following


def unpack_names(data: bytes) -> list[str]:
    """Device names from the reply of DM_LIST_DEVICES."""
    names: list[str] = []
    at = 0
    while True:
        device, following = struct.unpack_from("=QI", data, at)
        if device:
            names.append(_text(data[at + 12 :]))
        if not following:
            return names
        at += following


class _Alarm(Exception):
    """The alarm of a wait went off."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Interrupt the body after ``seconds``, again and again until it reacts.

    Raises:
        TimeoutError: the alarm went off.
    """

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Alarm:
        raise TimeoutError(f"nothing within {seconds} s") from None
    finally:
        signal.signal(signal.SIGALRM, before)


class IoctlDriver:
    """Device-mapper by ioctl (harness.kernel.drivers.driver.Driver)."""

    label = "ioctl"

    def __init__(self) -> None:
        self._control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the control device."""
        os.close(self._control)

    def _call(
        self,
        command: int,
        name: str = "",
        *,
        uuid: str = "",
        flags: int = 0,
        event: int = 0,
        targets: int = 0,
        data: bytes = b"",
    ) -> Header:
        """One ioctl; it is repeated only when the reply did not fit."""
        size = _BUFFER_BYTES
        while True:
            buffer = pack(
                size, name, uuid=uuid, flags=flags, event=event, targets=targets, data=data
            )
            fcntl.ioctl(self._control, request(command), buffer, True)
            header = unpack(buffer)
            if not header.flags & BUFFER_FULL:
                return header
            if size >= _BUFFER_BYTES_MAX:
                raise OSError(errno.ENOBUFS, f"reply of more than {size} bytes", name)
            size *= 8

    def create(self, name: str, uuid: str) -> None:
        """DM_DEV_CREATE, and a node."""
        header = self._call(DEV_CREATE, name, uuid=uuid)
        major, minor = map(int, header.number.split(":"))
        path = Path(node(name))
        path.unlink(missing_ok=True)  # a stale node of that name would name another device
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(major, minor))

    def load(self, name: str, lines: Sequence[Line], *, read_only: bool = False) -> None:
        """DM_TABLE_LOAD."""
        self._call(
            TABLE_LOAD,
            name,
            flags=READONLY if read_only else 0,
            targets=len(lines),
            data=pack_table(lines),
        )

    def clear(self, name: str) -> None:
        """DM_TABLE_CLEAR."""
        self._call(TABLE_CLEAR, name)

    def resume(self, name: str) -> None:
        """DM_DEV_SUSPEND without DM_SUSPEND_FLAG."""
        self._call(DEV_SUSPEND, name)

    def suspend(self, name: str, *, flush: bool = True, lockfs: bool = True) -> None:
        """DM_DEV_SUSPEND with DM_SUSPEND_FLAG."""
        self._call(
            DEV_SUSPEND,
            name,
            flags=SUSPEND | (0 if flush else NOFLUSH) | (0 if lockfs else SKIP_LOCKFS),
        )

    def remove(self, name: str) -> None:
        """DM_DEV_REMOVE, and its node."""
        self._call(DEV_REMOVE, name)
        Path(node(name)).unlink(missing_ok=True)

    def rename(self, name: str, to: str) -> None:
        """DM_DEV_RENAME, and its node."""
        self._call(DEV_RENAME, name, data=os.fsencode(to) + b"\0")
        Path(node(name)).rename(node(to))

    def message(self, name: str, sector: int, text: str) -> str:
        """DM_TARGET_MSG."""
        header = self._call(
            TARGET_MSG, name, data=struct.pack("=Q", sector) + os.fsencode(text) + b"\0"
        )
        return _text(header.data).strip("\n") if header.flags & DATA_OUT else ""

    def _lines(self, name: str, flags: int) -> tuple[Header, str]:
        header = self._call(TABLE_STATUS, name, flags=flags)
        return header, unpack_table(header.data, header.target_count)

    def status(self, name: str, *, inactive: bool = False) -> str:
        """DM_TABLE_STATUS."""
        return self._lines(name, QUERY_INACTIVE if inactive else 0)[1]

    def table(self, name: str, *, inactive: bool = False) -> str:
        """DM_TABLE_STATUS with DM_STATUS_TABLE_FLAG."""
        return self._lines(name, STATUS_TABLE | (QUERY_INACTIVE if inactive else 0))[1]

    def wait(self, name: str, event: int) -> int:
        """DM_DEV_WAIT, interrupted by a timer when nothing comes."""
        with alarm(WAIT_LIMIT_S):
            return self._call(DEV_WAIT, name, event=event).event

    def dependencies(self, name: str) -> tuple[str, ...]:
        """DM_TABLE_DEPS."""
        header = self._call(TABLE_DEPS, name)
        if not header.data:  # no live table
            return ()
        count = struct.unpack_from("=I", header.data)[0]
        return tuple(
            sorted(
                decode_number(number) for number in struct.unpack_from(f"=8x{count}Q", header.data)
            )
        )

    def survey(self, names: Iterable[str]) -> dict[str, Info]:
        """Two or three ioctls for each device; the header of a status reply has the rest."""
        found: dict[str, Info] = {}
        for name in names:
            try:
                header, status = self._lines(name, 0)
                live = bool(header.flags & ACTIVE_PRESENT)
                table = self._lines(name, STATUS_TABLE)[1] if live else None
                inactive = (
                    self._lines(name, STATUS_TABLE | QUERY_INACTIVE)[1]
                    if header.flags & INACTIVE_PRESENT
                    else None
                )
            except OSError as fault:
                if fault.errno != errno.ENXIO:
                    raise
                continue
            found[name] = Info(
                name=name,
                uuid=header.uuid,
                number=header.number,
                open=header.open_count,
                event=header.event,
                suspended=bool(header.flags & SUSPEND),
                read_only=bool(header.flags & READONLY),
                status=status if live else None,
                table=table,
                inactive=inactive,
            )
        return found

    def devices(self) -> dict[str, str]:
        """DM_LIST_DEVICES, then the UUID of each."""
        names = unpack_names(self._call(LIST_DEVICES).data)
        found: dict[str, str] = {}
        for name in sorted(names):
            with contextlib.suppress(OSError):  # gone since it was listed
                found[name] = self._call(DEV_STATUS, name).uuid
        return found

    def targets(self) -> dict[str, str]:
        """DM_LIST_VERSIONS."""
        return unpack_versions(self._call(LIST_VERSIONS).data)
