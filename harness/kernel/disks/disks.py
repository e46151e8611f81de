"""Disks: plain block devices of any size, quick to create and all alike.

A disk is a linear mapping onto one large ram disk (brd), whose pages take memory only where
something was written.  Disks follow each other there, each at a multiple of 1 MiB; at the end of a
scenario the ram disk is unloaded and loaded again (3 ms), so that every scenario starts with
zeros.  If brd cannot be unloaded (built in), a new disk is searched for old bytes, and only those
are zeroed.

A disk with a logical block of more than 512 bytes is a linear mapping onto a loop device over
memory (memfd), since brd offers only one block size.  If a directory is given, every disk is
one over a file there, which outlives the guest; an existing file keeps its contents.

A disk that can fail is a linear mapping onto a network block device that a fork of us serves
(`harness.kernel.disks.nbd_server`).  Its queue is set up to pass bios on one by one, and this is
checked, because the twin relies on it.  Connecting one takes a tenth of a second, so it is made as
large as a disk may be, and serves one scenario's disk after another.  One that can stop is reached
over a link (`harness.kernel.disks.link`).

Every mapped device made here carries the UUID prefix of the harness, and a ram disk that is
built in is used only if nobody has it open.
"""

import contextlib
import errno
import fcntl
import functools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from harness.errors import BadScenario, ProvisioningError
from harness.kernel import modules, udev
from harness.kernel.disks.nbd_server import FLAGS, NbdServer, Wire
from harness.kernel.drivers.driver import UUID_PREFIX, Driver, Line
from harness.trace import rules
from harness.trace.steps import REQUEST_SECTORS_MAX
from harness.units import SECTOR_BYTES, bytes_of_sectors, sectors_of_bytes

if TYPE_CHECKING:
    from harness.kernel.disks.nbd import DeadConnections, NbdControl

RAM_DISK: Final = "/dev/ram0"
RAM_SECTORS: Final = 8 << 20
"""4 GiB of addresses; memory is taken page by page."""
ALIGNMENT_SECTORS: Final = 2048
DISK_UUID: Final = f"{UUID_PREFIX}disk-"
_LOOP_CONTROL: Final = "/dev/loop-control"
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CLR_FD: Final = 0x4C01
_LOOP_CONFIG: Final = struct.Struct("=II232s64x")
"""struct loop_config: fd, block_size, struct loop_info64 (all zero: the whole file), reserved."""
_ZERO: Final = bytes(bytes_of_sectors(REQUEST_SECTORS_MAX))


class DiskInfo(NamedTuple):
    """A disk: its size, its block size, and the loop or nbd device below it, if any."""

    sectors: int
    block_size: int
    loop: int | None = None
    nbd: int | None = None
    server: NbdServer | None = None


def file_of(directory: Path, name: str) -> Path:
    """The file in ``directory`` that holds disk ``name``."""
    return directory / f"{name}.disk"


class Allocator:
    """Hands out ranges of the ram disk, one after the other."""

    def __init__(self, sectors: int = RAM_SECTORS) -> None:
        self._sectors = sectors
        self._next = 0

    def take(self, sectors: int) -> int:
        """First sector of a range of ``sectors``.

        Raises:
            BadScenario: the ram disk is full.
        """
        start = self._next
        if start + sectors > self._sectors:
            raise BadScenario(
                f"disks of {start + sectors} sectors together do not fit into the "
                f"{self._sectors} sectors of a guest: make them smaller"
            )
        self._next = -(-(start + sectors) // ALIGNMENT_SECTORS) * ALIGNMENT_SECTORS
        return start

    def reset(self) -> None:
        """Start anew."""
        self._next = 0


class Disks:
    """The disks of one scenario."""

    def __init__(self, driver: Driver, module_directory: Path, files: Path | None = None) -> None:
        self._driver = driver
        self._modules = module_directory
        self._files = files
        self._allocator = Allocator()
        self._pristine = False
        self._ours = False
        self._nbd: NbdControl | None = None
        self._dead: DeadConnections | None = None
        self._idle: list[tuple[NbdServer, int]] = []
        self.all: dict[str, DiskInfo] = {}
        """Every disk, in the order of its creation."""
        self._load()

    def _load(self) -> None:
        """Provide a ram disk, an empty one if possible.

        Raises:
            ProvisioningError: there is none, or it may contain somebody's data.
        """
        built_in = modules.present("brd") and not modules.loaded("brd")
        if modules.loaded("brd") and not self._ours:
            raise ProvisioningError(
                "module brd is loaded already, and its ram disks may hold somebody's data: unload "
                "it (rmmod brd)"
            )
        self._pristine = not modules.present("brd")
        if not modules.load(self._modules, "brd", f"rd_nr=1 rd_size={RAM_SECTORS // 2}"):
            raise ProvisioningError(
                f"the kernel has no ram disk (module brd) and {self._modules} holds none: give "
                "the directory of its modules (--modules)"
            )
        self._ours = not built_in
        try:
            fd = os.open(RAM_DISK, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as fault:
            raise ProvisioningError(
                f"{RAM_DISK} cannot be opened exclusively ({fault.strerror}): unmount it"
            ) from None
        with contextlib.closing(os.fdopen(fd, "rb", buffering=0)):
            self._allocator = Allocator(sectors_of_bytes(os.lseek(fd, 0, os.SEEK_END)))

    def add(
        self,
        name: str,
        sectors: int,
        block_size: int,
        *,
        can_fail: bool = False,
        linked: bool = False,
    ) -> None:
        """Create a disk full of zeros, or one over the file of that name.

        Raises:
            BadScenario: it does not fit.
            Unsupported: this kernel has no disk that can fail, or stop.
        """
        start = 0
        if can_fail:
            server, nbd = self._serve(sectors, linked)
            below = f"/dev/nbd{nbd}"
            self.all[name] = DiskInfo(sectors, block_size, nbd=nbd, server=server)
        elif block_size == SECTOR_BYTES and self._files is None:
            below, start = RAM_DISK, self._allocator.take(sectors)
            if not self._pristine:
                self._wipe(start, sectors)
            self.all[name] = DiskInfo(sectors, block_size)
        else:
            loop = self._make_loop(name, sectors, block_size)
            below = f"/dev/loop{loop}"
            self.all[name] = DiskInfo(sectors, block_size, loop=loop)
        self._driver.create(name, DISK_UUID + name)
        self._driver.load(name, [Line(0, sectors, "linear", f"{below} {start}")])
        self._driver.resume(name)

    def _serve(self, sectors: int, linked: bool) -> tuple[NbdServer, int]:
        """A server of ``sectors`` sectors, and the number of the nbd device in front of it."""
        if self._nbd is None:
            # No devices and no partitions until they are requested.
            modules.load(self._modules, "nbd", "nbds_max=0 max_part=0")
            from harness.kernel.disks.nbd import NbdControl

            self._nbd = NbdControl()
        for served in self._idle:
            if served[0].sectors >= sectors and served[0].linked == linked:
                self._idle.remove(served)
                return served
        server = NbdServer(max(sectors, RAM_SECTORS), self._wire() if linked else None)
        try:
            number = self._nbd.connect(server.kernel_end.fileno(), server.sectors, FLAGS)
        except (OSError, ProvisioningError):
            server.close()
            raise
        server.kernel_end.close()
        server.connected(number)
        # What udev reads from a new device is not one of our requests.
        udev.settle()
        server.renew()
        return server, number

    def _wire(self) -> Callable[[], Wire]:
        """Creates a link in the process of a server, which inherits the sockets it listens to."""
        assert self._nbd is not None
        modules.load(self._modules, "veth")
        from harness.kernel.disks.link import Link

        if self._dead is None:
            self._dead = self._nbd.dead_connections()
        return functools.partial(Link, self._dead)

    def heal(self, name: str) -> None:
        """Forget all faults of a disk; reconnect it if it died.

        Raises:
            BadScenario: that is not a disk that can fail.
            ProvisioningError: it cannot be connected.
        """
        number = self.all[name].nbd if name in self.all else None
        end = self.server(name).heal()
        if end is not None:
            assert number is not None
            assert self._nbd is not None
            # udev looks at a device that changes; that is not one of our requests.
            udev.settle()
            try:
                with end:
                    self._nbd.reconnect(number, end.fileno())
            except OSError as fault:
                raise ProvisioningError(
                    f"disk {name} died, and its nbd{number} takes no new "
                    f"connection: {fault.strerror}"
                ) from None

    def _stop_serving(self, server: NbdServer, number: int) -> None:
        """Disconnect an nbd device from its server.

        Raises:
            OSError: it stays, or something went wrong while it was there (EIO).
        """
        assert self._nbd is not None
        self._nbd.disconnect(number)
        fault = server.close()
        if fault:
            raise OSError(errno.EIO, fault)

    def server(self, name: str) -> NbdServer:
        """What serves disk ``name``.

        Raises:
            BadScenario: that is not a disk that can fail.
        """
        disk = self.all.get(name)
        if disk is None or disk.server is None:
            raise rules.no_fallible_disk(name)
        return disk.server

    def servers(self) -> dict[str, NbdServer]:
        """Disks that can fail, by name, and what serves them."""
        return {name: disk.server for name, disk in self.all.items() if disk.server is not None}

    def _wipe(self, start: int, sectors: int) -> None:
        """Zero what is not zero; reading a never-written page takes no memory."""
        fd = os.open(RAM_DISK, os.O_RDWR | os.O_CLOEXEC)
        try:
            at: int = bytes_of_sectors(start)
            end = bytes_of_sectors(start + sectors)
            while at < end:
                data = os.pread(fd, min(len(_ZERO), end - at), at)
                if data != _ZERO[: len(data)]:
                    os.pwrite(fd, _ZERO[: len(data)], at)
                at += len(data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _make_loop(self, name: str, sectors: int, block_size: int) -> int:
        """A loop device over memory or a file; its number."""
        with contextlib.ExitStack() as stack:
            backing = (
                os.memfd_create("dmsnap")
                if self._files is None
                else os.open(
                    file_of(self._files, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
                )
            )
            stack.callback(os.close, backing)
            os.ftruncate(backing, bytes_of_sectors(sectors))
            control = os.open(_LOOP_CONTROL, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, control)
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, device)
            fcntl.ioctl(device, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(backing, block_size, b""))
            return number

    @staticmethod
    def _drop_loop(number: int) -> None:
        device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, _LOOP_CLR_FD)
        finally:
            os.close(device)

    def reset(self) -> list[str]:
        """Remove every disk and forget its bytes; returns what could not be removed."""
        left = []
        for name, disk in list(self.all.items()):
            try:
                self._driver.remove(name)
                if disk.loop is not None:
                    self._drop_loop(disk.loop)
                if disk.nbd is not None and disk.server is not None:
                    if disk.server.renew():
                        self._idle.append((disk.server, disk.nbd))
                    else:
                        self._stop_serving(disk.server, disk.nbd)
            except OSError as fault:
                left.append(f"{name} ({fault.strerror})")
                continue
            del self.all[name]
        if not left:
            self._allocator.reset()
            if self._ours and modules.unload("brd"):
                self._load()
            else:
                self._pristine = False
        return left

    def close(self) -> None:
        """Unload the ram disk, so that a later run finds the machine as this one did."""
        for server, number in self._idle:
            with contextlib.suppress(OSError):  # they go with the end of this process, too
                self._stop_serving(server, number)
        self._idle.clear()
        for listener in (self._dead, self._nbd):
            if listener is not None:
                listener.close()
        if self._ours and not self.all:
            modules.unload("brd")
