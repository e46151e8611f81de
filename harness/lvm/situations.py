"""Situations for the real LVM2: its command lines and our own I/O (`dmsnap lvm` runs them).

They are those from LVM2's own test suite (test/shell/ there) that concern the snapshot targets; the
theme ``lvm_tables`` covers the same ground without LVM.  Here LVM decides which tables it
loads, in which order, and what it writes.

Every situation has one physical volume of 8 MiB in extents of 64 KiB, and one origin of 2 MiB.
What is in flight when a store overflows depends on timing, so the last chunks are written one by
one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harness.trace.steps import (
    Create,
    Disk,
    Examine,
    Load,
    Read,
    Resume,
    Suspend,
    TargetLine,
    Write,
)
from harness.wire.lvm import PV, Action, Lvm, PowerCut

DISK: Final = "disk"
SECTORS: Final = 16384
DATA_SECTOR: Final = 2048
"""Where the first extent begins; everything before it is LVM's own metadata."""
ORIGIN: Final = "vg-lv"
ORIGIN_SECTORS: Final = 4096
SNAPSHOT: Final = "vg-snap"
CHUNK_SECTORS: Final = 8
SLOW_MS: Final = 50
"""How long writes are delayed while a merge is to be interrupted."""


@dataclass(frozen=True, slots=True)
class Situation:
    """A situation.

    Attributes:
        rows: the tests in LVM2's suite that it comes from.
        boots: what is done in each boot; all but the last end with a power cut.
    """

    name: str
    about: str
    rows: str
    boots: tuple[tuple[Action, ...], ...]


class _Pen:
    """Collects actions."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self._generation = 0

    def lvm(self, line: str) -> None:
        self.actions.append(Lvm(words=tuple(line.split())))

    def pv(self, kind: str, args: str) -> None:
        """Give the physical volume a table."""
        self.actions += [
            Load(name=PV, table=(TargetLine(0, SECTORS, kind, args),)),
            Suspend(name=PV),
            Resume(name=PV),
        ]

    def disk(self) -> None:
        """The disk and the physical volume on it, as mapped devices; LVM does not know them yet."""
        self.actions += [
            Disk(name=DISK, sectors=SECTORS),
            Create(name=PV),
            Load(name=PV, table=(TargetLine(0, SECTORS, "linear", f"{{{DISK}}} 0"),)),
            Resume(name=PV),
        ]

    def origin(self) -> None:
        """A volume group with one volume, full of stamps."""
        self.disk()
        self.lvm(f"pvcreate -ff -y --dataalignment {DATA_SECTOR // 2}k /dev/mapper/{PV}")
        self.lvm(f"vgcreate -s 64k vg /dev/mapper/{PV}")
        self.lvm("lvcreate -y -l 32 -n lv vg")
        self.write(ORIGIN, 0, ORIGIN_SECTORS)

    def snapshot(self, extents: int) -> None:
        self.lvm(f"lvcreate -y -s -c 4k -l {extents} -n snap vg/lv")

    def write(self, device: str, sector: int, sectors: int) -> None:
        self._generation += 1
        self.actions.append(
            Write(device=device, sector=sector, sectors=sectors, generation=self._generation)
        )

    def read(self, device: str, sector: int, sectors: int) -> None:
        self.actions.append(Read(device=device, sector=sector, sectors=sectors))

    def examine(self) -> None:
        self.actions.append(Examine())


def _create(p: _Pen) -> None:
    """Two snapshots with chunks of 4 and 16 KiB; then one in place of a removed one."""
    p.origin()
    p.snapshot(8)
    p.write(ORIGIN, 3, 9)
    p.lvm("lvcreate -y -s -c 16k -l 16 -n other vg/lv")
    p.write(SNAPSHOT, 100, 20)
    p.write(ORIGIN, 100, 40)
    p.write("vg-other", 130, 33)
    p.examine()
    p.lvm("lvremove -y vg/other")
    p.write(ORIGIN, 400, 7)
    p.examine()
    p.lvm("lvremove -y vg/snap")
    p.lvm("lvcreate -y -s -c 16k -l 8 -n snap vg/lv")
    p.write(ORIGIN, 77, 100)
    p.examine()


def _fill(p: _Pen) -> None:
    """A store that needs a second metadata area; unaligned writes on both sides."""
    p.origin()
    p.snapshot(24)
    p.write(ORIGIN, 0, 5)
    p.write(SNAPSHOT, 1001, 7)
    p.write(ORIGIN, 997, 30)
    p.examine()
    p.write(ORIGIN, 1200, 2100)
    p.write(SNAPSHOT, 1501, 3)
    p.read(SNAPSHOT, 900, 1000)
    p.examine()


def _overflow(p: _Pen) -> None:
    """A store of 32 chunks is written full; the snapshot stays invalid across activations."""
    p.origin()
    p.snapshot(2)
    p.write(ORIGIN, 0, 20 * CHUNK_SECTORS)
    p.examine()
    for chunk in range(20, 34):
        p.write(ORIGIN, chunk * CHUNK_SECTORS, CHUNK_SECTORS)
    p.read(SNAPSHOT, 0, 8)
    p.write(SNAPSHOT, 2000, 8)
    p.write(ORIGIN, 3000, 8)
    p.examine()
    p.lvm("vgchange -an vg")
    p.lvm("vgchange -ay vg")
    p.read(SNAPSHOT, 0, 8)
    p.examine()
    p.lvm("lvremove -y vg/snap")


def _extend(p: _Pen) -> None:
    """The snapshot grows while it is active and takes more than it could before."""
    p.origin()
    p.snapshot(2)
    p.write(ORIGIN, 0, 25 * CHUNK_SECTORS)
    p.lvm("lvextend -l +4 vg/snap")
    p.write(ORIGIN, 40 * CHUNK_SECTORS, 30 * CHUNK_SECTORS)
    p.write(SNAPSHOT, 2000, 40)
    p.examine()
    p.lvm("vgchange -an vg")
    p.lvm("lvextend -l +4 vg/lv")
    p.lvm("vgchange -ay vg")
    p.write(ORIGIN, ORIGIN_SECTORS - 4, 40)
    p.examine()


def _reactivate(p: _Pen) -> None:
    """Contents across two cycles of deactivation, with unaligned writes; then another name."""
    p.origin()
    p.snapshot(8)
    p.write(ORIGIN, 5, 3)
    p.write(SNAPSHOT, 77, 30)
    for sector in (501, 1001):
        p.lvm("vgchange -an vg")
        p.lvm("vgchange -ay vg")
        p.read(SNAPSHOT, 0, 200)
        p.write(ORIGIN, sector, 21)
        p.write(SNAPSHOT, sector + 10, 21)
        p.examine()
    p.lvm("lvrename vg/snap renamed")
    p.write("vg-renamed", 3001, 21)
    p.examine()


def _merge(p: _Pen) -> None:
    """A snapshot is merged while its volumes are active; LVM finishes and removes it."""
    p.origin()
    p.snapshot(8)
    for sector in (3, 2000, 90, 110, 40, 3500):
        p.write(SNAPSHOT, sector, 13)
    p.write(ORIGIN, 1000, 33)
    p.examine()
    p.lvm("lvconvert -i 1 --merge vg/snap")
    p.examine()
    p.write(ORIGIN, 500, 100)


def _before_the_cut(p: _Pen) -> None:
    p.origin()
    p.snapshot(8)
    # Chunks that are not adjacent: no two of them are merged at once.
    for number in range(40):
        p.write(SNAPSHOT, (number * 37 % 100) * 5 * CHUNK_SECTORS + 3, 4)
    p.write(ORIGIN, 1000, 33)
    p.examine()
    p.lvm("vgchange -an vg")
    p.lvm("lvconvert --merge vg/snap")
    p.pv("delay", f"{{{DISK}}} 0 0 {{{DISK}}} 0 {SLOW_MS}")
    p.actions.append(PowerCut(words=("lvchange", "-ay", "--poll", "n", "vg/lv"), device=ORIGIN))


def _after_the_cut(p: _Pen) -> None:
    p.disk()
    p.lvm("vgchange -ay --poll n vg")
    p.examine()
    p.lvm("lvpoll --polloperation merge -i 1 vg/lv")
    p.examine()


def _boot(*parts: Callable[[_Pen], None], last: bool = True) -> tuple[Action, ...]:
    pen = _Pen()
    for part in parts:
        part(pen)
    if last:
        pen.lvm("vgchange -an vg")
        pen.examine()
    return tuple(pen.actions)


def _one_boot(name: str, part: Callable[[_Pen], None], rows: str) -> Situation:
    return Situation(name, part.__doc__ or "", rows, (_boot(part),))


SITUATIONS: Final = (
    _one_boot("create", _create, "lvcreate-usage, lvcreate-small-snap"),
    _one_boot("fill", _fill, "snapshot-usage"),
    _one_boot("overflow", _overflow, "snapshot-usage"),
    _one_boot("extend", _extend, "snapshot-usage, lvextend-snapshot-policy"),
    _one_boot("reactivate", _reactivate, "snapshot-reactivate, snapshot-rename"),
    _one_boot("merge", _merge, "snapshot-merge"),
    Situation(
        "merge-interrupted",
        "Power is lost in the middle of a merge; the next boot goes on.",
        "snapshot-merge, snapshot-merge-stack",
        (_boot(_before_the_cut, last=False), _boot(_after_the_cut)),
    ),
)
