"""A trace as a shell script that needs nothing of dmsnap: dmsetup, coreutils and util-linux.

The script begins with the prelude that the reproducers of ``docs/defects`` share (``prelude.sh``),
does the steps one after another, and at the step that differs holds what its kernel shows against
what was expected.  Its exit status is theirs: 0 and ``DEFECT SHOWN`` if the kernel shows what the
kernel of the find did, 1 if not, 2 if it could not be tried.

Sectors describe themselves, as in a trace: each says its device, the generation of its write and
its number, in words that a shell can write and read.

Not everything can be told to a shell, or seen by one.  `Untold` says what, and a script that only
comes near to a step says so beside it: I/O in parallel is begun in the background, a fault of a
disk becomes a range that gives errors, and a link cannot be cut.
"""

import errno
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from harness.compare.diff import Divergence, Layer
from harness.errors import DmsnapError
from harness.promises.check import BrokenPromise
from harness.trace.files import Trace
from harness.trace.observations import SUSPENDED, Observation, Runs, Stamped, Unreadable, Zeros
from harness.trace.steps import (
    REFERENCE,
    REQUEST_SECTORS_MAX,
    AnyStep,
    Clear,
    Crash,
    Create,
    Discard,
    Disk,
    Examine,
    Fault,
    Flush,
    Heal,
    Image,
    Load,
    Message,
    Parallel,
    Parameter,
    Poke,
    Read,
    Remove,
    Rename,
    Resume,
    Status,
    Suspend,
    Table,
    Wait,
    Write,
    Zeroout,
)
from harness.units import SECTOR_BYTES

RAM_SECTORS: Final = 131_072
"""Of /dev/ram0, on which all disks of a script are made."""
SCRIPT_SECTORS_MAX: Final = 200_000
"""A shell writes some thousand sectors a second."""

_TOOLS: Final = r"""
q() {  # COMMAND…: run it; $said is what became of it, in the words of strerror(3)
    if "$@" > "$tmp/out" 2> "$tmp/err"; then said=success
    else said=$(sed -n '/records [io]/d; /copied/d; s/.*: //p' "$tmp/err" | sed -n '$p'); fi
    said=${said:-failed}
}
table_of() { cat > "$tmp/table"; }
words() {  # FIRST COUNT WORD: sectors that say WORD and their own number
    j=$1; e=$(($1 + $2))
    while [ $j -lt $e ]; do printf '%-511s\n' "$3 $j"; j=$((j + 1)); done
}
pieces() {  # COMMAND NAME FIRST COUNT …: requests of at most 2048 sectors, until one fails
    c=$1 d=$2 p=$3 z=$(($3 + $4)); shift 4
    said=success
    while [ "$p" -lt "$z" ] && [ "$said" = success ]; do
        k=$((z - p)); [ $k -le 2048 ] || k=2048
        "$c" "$d" "$p" "$k" "$@"; p=$((p + k))
    done
}
w1() {  # NAME FIRST COUNT WORD [buffered]: one request
    if [ "$4" = zeros ]; then head -c $(($3 * 512)) /dev/zero; else words "$2" "$3" "$4"; fi \
        > "$tmp/data.$1"
    how=seek_bytes,direct; [ $# -lt 5 ] || how=seek_bytes
    q dd if="$tmp/data.$1" of="/dev/mapper/bug_$1" bs=$(($3 * 512)) count=1 seek=$(($2 * 512)) \
        oflag=$how conv=notrunc${5+,fsync}
}
r1() {  # NAME FIRST COUNT [buffered]: one request
    how=skip_bytes,direct; [ $# -lt 4 ] || how=skip_bytes
    q dd if="/dev/mapper/bug_$1" of=/dev/null bs=$(($3 * 512)) count=1 skip=$(($2 * 512)) iflag=$how
}
whole() {  # NAME: read all of it
    q dd if="/dev/mapper/bug_$1" of=/dev/null bs=1M iflag=direct
}
bytes_at() {  # NAME BYTE: the sixteen from there, in hex
    dd if="/dev/mapper/bug_$1" of="$tmp/sector" bs=512 skip=$(($2 / 512)) count=1 iflag=direct \
        2>/dev/null || { echo "(I/O error)"; return; }
    od -An -tx1 -j $(($2 % 512)) -N16 "$tmp/sector" | sed 's/^ *//; s/ *$//'
}
named() {  # device numbers as names
    dmsetup info -c --noheadings --separator ' ' -o major,minor,name 2>/dev/null \
        | sed -n 's|^\([0-9]*\) \([0-9]*\) bug_\(.*\)|s/\\b\1:\2\\b/{\3}/g|p' > "$tmp/names"
    sed -f "$tmp/names"
}
about() {  # FIELD NAME: one word of what device-mapper knows of a device
    case $1 in
        status) dmsetup status --noflush "bug_$2" ;;
        table) dmsetup table "bug_$2" ;;
        inactive) dmsetup table --inactive "bug_$2" ;;
        *) dmsetup info -c --noheadings -o "$1" "bug_$2" | sed 's/ *$//' ;;
    esac 2>/dev/null | named | sed 's/ *$//'
}
lines() {  # what the kernel has logged of device-mapper since `mark`
    dmesg | tail -n "+$at" | sed -n 's/^.*\(device-mapper: .*\)/\1/p' \
        | grep -v inconsistency | named
}
mark() { at=$(($(dmesg | wc -l) + 1)); }
compare() {  # WHAT SEEN FOUND EXPECTED: this kernel, the kernel of the find, and how it should be
    echo "$1"
    echo "  this kernel: $2"
    echo "  expected:    $4"
    [ "$2" = "$4" ] && not_shown "$1 is as expected"
    [ "$2" = "$3" ] && shown "$1: $2 instead of $4"
    not_shown "$1 is neither as expected nor as it was found ($3)"
}
"""


class Untold(DmsnapError):
    """A find that a shell cannot show; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a script is to show.

    Attributes:
        step: in which it is seen.
        what: in words.
        command: of the shell, prints what its kernel has there.
        found, expected: what it printed on the kernel of the find, and what it should print.
        dies: the kernel is to die in that step, so that nothing is printed.
    """

    step: int
    what: str
    command: str = ""
    found: str = ""
    expected: str = ""
    dies: bool = False


def shell_names(trace: Trace) -> dict[str, str]:
    """Device → its name in a script: small letters and digits, no two alike."""
    found: dict[str, str] = {}
    for name in _all_names(trace.steps):
        base = re.sub(r"[^a-z0-9]", "", name.lower()) or "x"
        fresh, number = base, 1
        while fresh in found.values():
            number += 1
            fresh = f"{base}{number}"
        found[name] = fresh
    return found


def _all_names(steps: Iterable[AnyStep]) -> Iterator[str]:
    for step in steps:
        for each in ("name", "to", "device"):
            value = getattr(step, each, None)
            if isinstance(value, str) and not isinstance(step, Parameter):
                yield value
        if isinstance(step, Load):
            for line in step.table:
                yield from REFERENCE.findall(line.args)
        if isinstance(step, Parallel):
            yield from (io.device for io in step.ios)
            yield from step.resume


# -- what is to be shown -------------------------------------------------------------------------


def difference(
    trace: Trace,
    divergence: Divergence,
    left: Sequence[Observation],
    right: Sequence[Observation],
) -> Difference:
    """What a script shows of a divergence between kernel (``left``) and twin (``right``).

    Raises:
        Untold: a shell cannot see it.
    """
    names = shell_names(trace)
    what = f"step {divergence.step} ({divergence.verb}), {divergence.layer}: {divergence.what}"
    field, _, device = divergence.what.partition(" of ")
    here = names.get(device, device)

    def told(command: str, found: str, expected: str) -> Difference:
        return Difference(
            step=divergence.step, what=what, command=command, found=found, expected=expected
        )

    match divergence.layer:
        case Layer.ERROR if divergence.what == "error":
            return told('echo "$said"', _strerror(divergence.left), _strerror(divergence.right))
        case Layer.STATUS | Layer.TABLE | Layer.EVENT if device:
            fields = {"event": "events", "open": "open", "suspended": "suspended"}
            if field == "read_only":
                raise Untold("whether a device is read-only is not compared by the script")
            if field == "suspended":
                said = {"True": "Suspended", "False": "Active"}
                return told(
                    f"about suspended {here}",
                    said.get(divergence.left, divergence.left),
                    said.get(divergence.right, divergence.right),
                )
            return told(
                f"about {fields.get(field, field)} {here}",
                _as_shell(divergence.left, names),
                _as_shell(divergence.right, names),
            )
        case Layer.LOG:
            number = divergence.what.split()[2]
            return told(
                f"lines | sed -n {number}p",
                _as_shell(divergence.left, names),
                _as_shell(divergence.right, names),
            )
        case Layer.CONTENT | Layer.STORE if divergence.place is not None:
            return _content(trace, divergence, names, left, right, what)
        case _:
            raise Untold(
                f"a shell with dmsetup and coreutils cannot see {divergence.layer} "
                f"({divergence.what})"
            )


def _content(
    trace: Trace,
    divergence: Divergence,
    names: Mapping[str, str],
    left: Sequence[Observation],
    right: Sequence[Observation],
    what: str,
) -> Difference:
    place = divergence.place
    assert place is not None
    part = "content" if divergence.layer is Layer.CONTENT else "image"
    here = names[place.device]
    step = trace.steps[divergence.step]
    start = step.sector if isinstance(step, Read) else 0
    words = [
        _sector_words(_runs(side, divergence.step, part, place.device), place.sector, start)
        for side in (left, right)
    ]
    if words[0] != words[1] and all(words):
        return Difference(
            step=divergence.step,
            what=f"{what}, sector {place.sector}",
            command=f"look {here} {place.sector}",
            found=words[0],
            expected=words[1],
        )
    if place.hex_at < 0:
        raise Untold("one side has no bytes where the two differ")
    return Difference(
        step=divergence.step,
        what=f"{what}, bytes from {place.hex_at}",
        command=f"bytes_at {here} {place.hex_at}",
        found=place.left_hex,
        expected=place.right_hex,
    )


def _runs(side: Sequence[Observation], step: int, part: str, device: str) -> Runs:
    for observation in side:
        if observation.step == step:
            found: dict[str, Runs] = getattr(observation, part)
            return found.get(device, ())
    return ()


def _sector_words(runs: Runs, sector: int, start: int) -> str:
    """What `look` of the prelude prints of a sector; empty if it cannot be said."""
    at = start
    for run in runs:
        if at <= sector < at + run.count:
            match run:
                case Stamped(device=device, generation=generation, sector=first):
                    return f"{device} {generation} {first + sector - at}"
                case Zeros():
                    return "(zeros)"
                case Unreadable():
                    return "(I/O error)"
                case _:
                    return ""
        at += run.count
    return ""


def broken_promise(trace: Trace, broken: BrokenPromise) -> Difference:
    """What a script shows of a promise that a kernel breaks.

    Raises:
        Untold: the sector in question is none that says where it came from.
    """
    found, expected = _stamp_words(broken.read), _stamp_words(broken.promised)
    if not (found and expected):
        raise Untold(
            f"sector {broken.sector} of {broken.device} does not say where it came from: "
            f"{broken.read}; promised: {broken.promised}"
        )
    return Difference(
        step=broken.step,
        what=f"sector {broken.sector} of {broken.device} ({broken.rule})",
        command=f"look {shell_names(trace)[broken.device]} {broken.sector}",
        found=found,
        expected=expected,
    )


_STAMP: Final = re.compile(r"sector (\d+) of (\S+), generation (\d+)")


def _stamp_words(text: str) -> str:
    if text == "zeros":
        return "(zeros)"
    if text.startswith("unreadable"):
        return "(I/O error)"
    found = _STAMP.fullmatch(text)
    return f"{found[2]} {found[3]} {found[1]}" if found else ""


def _strerror(name: str) -> str:
    if name == "success":
        return name
    number = getattr(errno, name, None)
    if number is None:
        raise Untold(f"a shell gets no {name}")
    return os.strerror(number)


def _as_shell(text: str, names: Mapping[str, str]) -> str:
    if text in ("nothing", "an empty text", "no such device"):
        return ""
    return REFERENCE.sub(lambda found: f"{{{names.get(found[1], found[1])}}}", text)


# -- the script ----------------------------------------------------------------------------------


def script(
    trace: Trace,
    shown: Difference,
    seen: Sequence[Observation] = (),
    about: Sequence[str] = (),
) -> str:
    """The script that shows a difference.

    Args:
        trace: what is done.
        shown: what is to be shown.
        seen: what the kernel of the find observed: steps that it refused for a suspended device
            would wait for ever in a shell, and are left out.
        about: lines of the comment that it begins with.

    Raises:
        Untold: a step has no counterpart in a shell.
    """
    return _Script(trace, shown, seen).text(about)


def prelude() -> str:
    """What all reproducers begin with, from ``set -u`` to the story."""
    return (files("harness.fuzz") / "prelude.sh").read_text(encoding="utf-8")


class _Script:
    def __init__(self, trace: Trace, shown: Difference, seen: Sequence[Observation]) -> None:
        self._trace = trace
        self._shown = shown
        self._names = shell_names(trace)
        self._suspended = {each.step for each in seen if each.error == SUSPENDED}
        self._merging: set[str] = set()
        self._live: dict[str, bool] = {}
        self._disks: set[str] = set()

    def text(self, about: Sequence[str]) -> str:
        lines = ["#!/bin/sh", *(f"# {line}".rstrip() for line in about), ""]
        story: list[str] = []
        for at, step in enumerate(self._trace.steps):
            if at > self._shown.step:
                break
            last = at == self._shown.step
            story.append(f"# step {at}")
            if last and self._shown.dies:
                story.append('echo "NOW: the kernel may die in the next step"')
            if last:
                story.append("mark")
            if at in self._suspended:
                story.append("said=  # left out: it would wait for a device that is suspended")
            else:
                story += self._step(step)
            if last:
                story.append(self._compare())
        return "\n".join(lines) + prelude() + _TOOLS.lstrip("\n") + "\n" + "\n".join(story) + "\n"

    def _compare(self) -> str:
        shown = self._shown
        if shown.dies:
            return 'not_shown "the kernel lives on"'
        return (
            f'compare {shlex.quote(shown.what)} "$({shown.command})" \\\n'
            f"    {shlex.quote(shown.found)} \\\n    {shlex.quote(shown.expected)}"
        )

    def _step(self, step: AnyStep) -> list[str]:
        name = self._names.get(getattr(step, "name", "") or getattr(step, "device", "") or "", "")
        match step:
            case Disk():
                return self._disk(step, name)
            case Create():
                return [f"q dmsetup create --notable bug_{name}"]
            case Load():
                return self._load(step, name)
            case Clear():
                return [f"q dmsetup clear bug_{name}"]
            case Resume():
                settle = [f"settle {name}"] if name in self._merging else []
                return [f"q dmsetup resume bug_{name}", *settle]
            case Suspend():
                options = ("" if step.flush else " --noflush") + (
                    "" if step.lockfs else " --nolockfs"
                )
                return [f"q dmsetup suspend{options} bug_{name}"]
            case Remove():
                return [f"q dmsetup remove bug_{name}"]
            case Rename(to=to):
                return [f"q dmsetup rename bug_{name} bug_{self._names[to]}"]
            case Message(text=text, sector=sector):
                return [f"q dmsetup message bug_{name} {sector} {shlex.quote(text)}"]
            case Status(inactive=inactive):
                return [f"q dmsetup status{' --inactive' if inactive else ''} bug_{name}"]
            case Table(inactive=inactive):
                return [f"q dmsetup table{' --inactive' if inactive else ''} bug_{name}"]
            case Wait(event=event):
                return [f"q timeout 5 dmsetup wait bug_{name} {event}"]
            case Write():
                return [self._write(step)]
            case Read():
                return [self._read(step)]
            case Poke(sector=sector, data=data):
                return self._poke(name, sector, data)
            case Flush():
                return [f"q sync /dev/mapper/bug_{name}"]
            case Discard() | Zeroout():
                zero = "-z " if isinstance(step, Zeroout) else ""
                return [
                    (
                        f"q blkdiscard {zero}-o $(({step.sector} * 512)) "
                        f"-l $(({step.sectors} * 512)) /dev/mapper/bug_{name}"
                    )
                ]
            case Parallel():
                return self._parallel(step)
            case Fault():
                return self._fault(step, name)
            case Heal():
                return [f"heal {name}"]
            case Parameter(name=parameter, value=value):
                return [
                    f"echo {shlex.quote(value)} > /sys/module/dm_snapshot/parameters/{parameter}"
                ]
            case Image():
                return []
            case Examine():
                return [
                    "for d in $(dmsetup ls | sed -n 's/^bug_\\([a-z0-9]*\\).*/\\1/p'); do",
                    '    [ "$(about suspended "$d")" = Active ] && whole "$d"',
                    "done",
                ]
            case Crash():
                raise Untold("a crash that is asked for shows nothing")

    def _disk(self, step: Disk, name: str) -> list[str]:
        self._disks.add(name)
        lines = []
        if step.linked:
            raise Untold(f"disk {step.name} is behind a link, which a shell cannot take down")
        if step.block_size != SECTOR_BYTES:
            lines += [
                f'head -c {step.sectors * SECTOR_BYTES} /dev/zero > "$tmp/{name}.disk"',
                (
                    f"loop_{name}=$(losetup -f --show --sector-size {step.block_size} "
                    f'"$tmp/{name}.disk") || exit 2'
                ),
                (
                    f'dmsetup create bug_{name} --table "0 {step.sectors} linear $loop_{name} 0"'
                    " || exit 2"
                ),
            ]
        else:
            lines.append(f"disk {name} {step.sectors}")
        if step.fill == "stamp":
            lines.append(
                f"pieces w1 {name} 0 {step.sectors} {shlex.quote(f'{step.name} {step.generation}')}"
            )
        return lines

    def _load(self, step: Load, name: str) -> list[str]:
        if any(line.type == "snapshot-merge" for line in step.table):
            self._merging.add(name)
        else:
            self._merging.discard(name)
        table = [
            f"{line.start} {line.length} {line.type}"
            + (f" {self._args(line.args)}" if line.args else "")
            for line in step.table
        ]
        readonly = " --readonly" if step.read_only else ""
        return [
            "table_of << 'END'",
            *table,
            "END",
            f'q dmsetup load{readonly} bug_{name} "$tmp/table"',
        ]

    def _args(self, args: str) -> str:
        return REFERENCE.sub(lambda found: f"/dev/mapper/bug_{self._names[found[1]]}", args)

    def _write(self, step: Write) -> str:
        words = "zeros" if step.fill == "zero" else f"{step.device} {step.generation}"
        many = "pieces w1" if step.sectors > REQUEST_SECTORS_MAX else "w1"
        return (
            f"{many} {self._names[step.device]} {step.sector} {step.sectors} {shlex.quote(words)}"
            + (" buffered" if step.buffered else "")
        )

    def _read(self, step: Read) -> str:
        many = "pieces r1" if step.sectors > REQUEST_SECTORS_MAX else "r1"
        return f"{many} {self._names[step.device]} {step.sector} {step.sectors}" + (
            " buffered" if step.buffered else ""
        )

    def _poke(self, name: str, sector: int, data: bytes) -> list[str]:
        sectors = len(data) // SECTOR_BYTES
        text = "".join(f"\\{byte:03o}" for byte in data.rstrip(b"\0"))
        if sectors > REQUEST_SECTORS_MAX or len(text) > 60_000:
            raise Untold(f"a poke of {len(data)} bytes is too long for a script")
        return [
            f'printf \'{text}\' > "$tmp/poke"; truncate -s {len(data)} "$tmp/poke"',
            (
                f'q dd if="$tmp/poke" of=/dev/mapper/bug_{name} bs={len(data)} count=1 '
                f"seek=$(({sector} * 512)) oflag=seek_bytes,direct conv=notrunc"
            ),
        ]

    def _parallel(self, step: Parallel) -> list[str]:
        lines = ["# Begun in the background: the order is near to that of the trace, and no more."]
        for number, io in enumerate(step.ios):
            one = self._write(io) if isinstance(io, Write) else self._read(io)
            lines.append(
                f'({one}; echo "$said" > "$tmp/said.{number}") & pid{number}=$!; sleep 0.05'
            )
        lines += [f"dmsetup resume bug_{self._names[each]}" for each in step.resume]
        lines += [f"wait $pid{number}" for number in range(len(step.ios))]
        lines.append(
            "said=$(cat "
            + " ".join(f'"$tmp/said.{number}"' for number in range(len(step.ios)))
            + " | grep -v success | sed -n 1p); said=${said:-success}"
        )
        return lines

    def _fault(self, step: Fault, name: str) -> list[str]:
        if step.how != "error":
            raise Untold("a shell cannot stall or cut a link")
        if step.nth != 1:
            raise Untold(f"a shell cannot let request number {step.nth} fail, only a range")
        length = f"$((size_{name} - {step.sector}))" if step.sectors is None else str(step.sectors)
        return [
            f"# In the trace it is {step.op}s that fail, {step.count or 'all'} of them.",
            f"fail {name} {step.sector} {length}",
        ]
