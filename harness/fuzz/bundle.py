"""The bundle: all that a maintainer needs of a find, in a directory and in one file.

What is in it: the trace, a script that needs nothing of dmsnap (`harness.fuzz.script`), what both
sides observed, the stores with their listings, the console and the kernel's log, what kernel it
was, the draft of a mail, and a test in blktests' form.

Nothing of the host is in it that should not leave it: every text passes `scrubbed`.

A bundle that comes from somebody else is a stranger's file.  `read_trace` takes the one trace out
of it that a replay needs, in memory, and within bounds: nothing is unpacked, no link is followed,
and no script of it is ever run.
"""

import getpass
import io
import lzma
import os
import re
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec
from msgspec import Struct

from harness import __version__
from harness.compare.diff import Verdict
from harness.errors import BadTrace, NotAFile
from harness.files import open_stranger, read_stranger, write_whole
from harness.fuzz.find import Find, OnOne
from harness.fuzz.listing import listing
from harness.fuzz.script import Difference, Untold, broken_promise, difference, script
from harness.fuzz.signature import Signature
from harness.guest.catalogue import UML, Kernel
from harness.report.gate import printable
from harness.report.words import details, headline
from harness.store.layout import SNAP_MAGIC
from harness.trace import pattern
from harness.trace.bounds import TRACE_BYTES_MAX
from harness.trace.files import Observations, Trace, dumps, dumps_observations, loads

TRACE_NAME: Final = "trace.jsonl"
FIND_NAME: Final = "find.json"
SCRIPT_NAME: Final = "reproduce.sh"
BUNDLE_BYTES_MAX: Final = 64 << 20
"""Of a bundle as a file."""
UNPACKED_BYTES_MAX: Final = 512 << 20
MEMBERS_MAX: Final = 256
XZ_MEMORY_MAX: Final = 256 << 20
STORE_BYTES_MAX: Final = 16 << 20
"""Of one store's image; of a larger one there is the listing alone."""
_XZ: Final = b"\xfd7zXZ\x00"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PATH: Final = re.compile(
    r"(?<![\w.{/:])/(?!(?:dev|sys|proc|lib/modules)(?:/|\b))[\w.+@~-]+(?:/[\w.+@~-]*)+"
)
_CONFIG_LIMIT_S: Final = 20


class About(Struct, frozen=True, kw_only=True):
    """``find.json``: what the find is, for programs."""

    dmsnap: str
    scenario: str
    signature: Signature
    kernels: tuple[OnOne, ...]


# -- making one ----------------------------------------------------------------------------------


def contents(find: Find) -> dict[str, bytes]:
    """The files of a bundle, by name."""
    found: dict[str, bytes] = {
        TRACE_NAME: dumps(find.trace),
        FIND_NAME: msgspec.json.format(
            msgspec.json.encode(
                About(
                    dmsnap=__version__,
                    scenario=find.trace.header.scenario,
                    signature=find.signature,
                    kernels=find.kernels,
                )
            )
        ),
        "difference.txt": _text(details(find.result) or headline(find.result)),
        "kernel.txt": _text(_kernel(find)),
        "console.txt": _text(find.console),
        "kernel-log.txt": _text(_log(find)),
    }
    for name, side in (("kernel.jsonl", find.seen), ("twin.jsonl", find.twin)):
        if side is not None:
            found[name] = dumps_observations(side)
    found |= _stores(find)
    if config := config_of(find.kernel):
        found["kernel.config"] = _text(config)
    told = _script(find)
    if isinstance(told, str):
        found[SCRIPT_NAME] = _text(told)
        found["blktests-dm-snapshot"] = _text(_blktests(find, told))
    else:
        found["no-script.txt"] = _text(
            f"There is no script for a shell alone: {told}\n{_replay(find)}"
        )
    found["mail.txt"] = _text(_mail(find, isinstance(told, str)))
    found["README"] = _text(_readme(find, sorted(found)))
    return {name: found[name] for name in sorted(found)}


def write(find: Find, directory: Path) -> tuple[Path, Path]:
    """Write a bundle as a directory, and as one file beside it; returns both.

    Raises:
        OSError: they cannot be written.
    """
    made = contents(find)
    for name, data in made.items():
        write_whole(directory / name, data)
    suffix, packed = pack(directory.name, made)
    file = directory.with_name(f"{directory.name}{suffix}")
    write_whole(file, packed)
    return directory, file


def pack(name: str, made: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Files as one: ``.tar.zst`` where the extra `bundle` is installed, else ``.tar.xz``.

    The same files give the same bytes; owner, time and modes are those of nobody.
    """
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for each, data in made.items():
            member = tarfile.TarInfo(f"{name}/{each}")
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    try:
        import zstandard
    except ImportError:
        return ".tar.xz", lzma.compress(plain.getvalue())
    return ".tar.zst", zstandard.ZstdCompressor(level=10).compress(plain.getvalue())


def scrubbed(text: str) -> str:
    """``text`` without what belongs to this host alone: names of user and machine, paths."""
    for secret in _secrets():
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "…", text)
    return _PATH.sub("…", text)


def _secrets() -> Iterator[str]:
    """Of this host; the longest first, since one may be part of another."""
    found = {str(Path.cwd()), str(Path.home()), sys.prefix, sys.executable}
    with suppress(OSError, KeyError, ImportError):
        found.add(getpass.getuser())
    found.add(socket.gethostname())
    ordinary = {"/", "", "root", "user", "localhost", "dmsnap", "kernel"}
    yield from sorted(found - ordinary, key=len, reverse=True)


def _text(text: str) -> bytes:
    return (printable(scrubbed(text)).rstrip("\n").replace("\t", "    ") + "\n").encode()


def _script(find: Find) -> str | Untold:
    """The script, or why there is none."""
    try:
        seen = find.outcome.observations
        shown = _shown(find)
        about = [
            f"{_subject(find)}.",
            (
                f"Made by dmsnap {__version__} from a trace of {len(find.trace.steps)} steps, "
                f"found on Linux {find.result.release}."
            ),
        ]
        return script(find.trace, shown, seen, [printable(scrubbed(each)) for each in about])
    except Untold as why:
        return why


def _shown(find: Find) -> Difference:
    result = find.result
    if result.divergences and find.twin is not None:
        why = Untold("nothing differs that a shell can see")
        for divergence in result.divergences:
            try:
                return difference(
                    find.trace, divergence, find.outcome.observations, find.twin.observations
                )
            except Untold as fault:
                why = fault
        raise why
    promises = (*result.kernel_promises, *result.twin_promises)
    if result.verdict is Verdict.SAME and promises:
        return broken_promise(find.trace, promises[0])
    lost = find.outcome.lost
    if lost is not None and lost.step is not None and lost.reason == "panic":
        return Difference(step=lost.step, what="the kernel lives", dies=True)
    raise Untold(result.reason or "what differs is no value that a shell can see")


def _stores(find: Find) -> dict[str, bytes]:
    """Every exception store as the kernel left it, and the twin's where it is another one."""
    found: dict[str, bytes] = {}
    for side, seen in (("kernel", find.seen), ("twin", find.twin)):
        for device, data in _images(seen).items():
            if data[:4] != SNAP_MAGIC.to_bytes(4, "little"):
                continue
            name = re.sub(r"[^A-Za-z0-9]", "_", device)
            if len(data) <= STORE_BYTES_MAX:
                found[f"store-{name}-{side}.img"] = data
            found[f"store-{name}-{side}.txt"] = _text(listing(data))
    return found


def _images(seen: Observations | None) -> dict[str, bytes]:
    """The last image of each disk."""
    found: dict[str, bytes] = {}
    for observation in reversed(seen.observations if seen else ()):
        for device, runs in observation.image.items():
            if device not in found:
                with suppress(BadTrace):  # too large to be looked at
                    found[device] = pattern.decode(seen.header.seed if seen else 0, runs)
    return found


def _log(find: Find) -> str:
    return "\n".join(
        f"step {observation.step}: {line}"
        for observation in find.outcome.observations
        for line in observation.log
    )


def _kernel(find: Find) -> str:
    one = find.kernels[0]
    modules = [f"  {name} {version}" for name, version in sorted(one.targets.items())]
    return "\n".join([f"{one.release}", one.version, "targets:", *modules])


def config_of(kernel: Kernel) -> str:
    """How a kernel was configured, where it tells: User-mode Linux of the catalogue prints it."""
    if kernel.guest != UML or kernel.record is None:
        beside = kernel.program.parent / ".config"
        with suppress(OSError, NotAFile, UnicodeDecodeError):
            return read_stranger(beside, 1 << 20).decode()
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [kernel.program, "--showconfig"],
            check=False,
            capture_output=True,
            timeout=_CONFIG_LIMIT_S,
            stdin=subprocess.DEVNULL,
            env={"LC_ALL": "C"},
        )
        return done.stdout[: 1 << 20].decode(errors="replace")
    return ""


# -- texts ---------------------------------------------------------------------------------------


def _subject(find: Find) -> str:
    signature = find.signature
    if signature.function:
        return f"dm-snapshot: kernel dies in {signature.function}()"
    if signature.layer == "promise":
        return f"dm-snapshot: {signature.what}"
    if find.result.divergences:
        first = find.result.divergences[0]
        return f"dm-snapshot: wrong {first.layer} after {first.verb.partition(' ')[0]}"
    return f"dm-snapshot: {headline(find.result) or signature}"


def _table_of_kernels(kernels: Sequence[OnOne]) -> str:
    return "\n".join(
        f"  {one.release or one.kernel:<28} {one.shown} of {one.asked} times"
        + ("" if one.shown else f" ({one.verdict})")
        for one in kernels
    )


def _replay(find: Find) -> str:
    return f"dmsnap replay BUNDLE --kernel {find.kernels[0].kernel}"


def _mail(find: Find, has_script: bool) -> str:
    """The draft of a report, as dm-devel expects one."""
    bad = [one for one in find.kernels if one.shown]
    good = [one for one in find.kernels if not one.shown]
    how = (
        f"The script below ({SCRIPT_NAME}) needs dmsetup, coreutils and a ram disk, and a machine "
        "that may die."
        if has_script
        else f"It needs dmsnap: {_replay(find)}"
    )
    first_bad = (
        f"It does not happen on {', '.join(one.release or one.kernel for one in good)}; the first "
        f"bad release among those tried is {min(one.release for one in bad)}."
        if good and bad
        else "First bad release: not known; it happens on all kernels that were tried."
    )
    return "\n".join(
        [
            "To: dm-devel@lists.linux.dev",
            "Cc: Mikulas Patocka <mpatocka@redhat.com>, Mike Snitzer <snitzer@kernel.org>",
            f"Subject: [BUG] {_subject(find)}",
            "",
            "Hello,",
            "",
            "What happens, and what was expected:",
            "",
            *(f"  {line}" for line in details(find.result).splitlines()),
            "",
            (
                "Why this is wrong: (please say here which promise of the documentation, or which "
                "other kernel, speaks for what was expected)"
            ),
            "",
            f"How to reproduce it, {len(find.trace.steps)} steps:",
            "",
            *(f"  {line}" for line in _steps(find.trace)),
            "",
            how,
            "",
            "Kernels:",
            "",
            _table_of_kernels(find.kernels),
            "",
            first_bad,
        ]
    )


def _steps(trace: Trace) -> Iterator[str]:
    for at, step in enumerate(trace.steps):
        yield f"{at:>3} {msgspec.json.encode(step).decode()[:200]}"


def _readme(find: Find, names: Iterable[str]) -> str:
    return "\n".join(
        [
            f"{_subject(find)}",
            "",
            f"Why it is a find: {find.signature}",
            _table_of_kernels(find.kernels),
            "",
            "To see it without dmsnap, in a machine that may die:",
            f"    sh {SCRIPT_NAME} --this-machine-is-disposable",
            "To see it with dmsnap:",
            f"    {_replay(find)}",
            "",
            "What is here:",
            *(f"    {name:<28} {_WHAT.get(name, _what(name))}" for name in names),
        ]
    )


_WHAT: Final = {
    TRACE_NAME: "the steps, for dmsnap replay",
    FIND_NAME: "the find, for programs",
    SCRIPT_NAME: "the steps and the difference, for a shell",
    "blktests-dm-snapshot": "the same as a test for blktests",
    "console.txt": "what the guest printed",
    "difference.txt": "what differs",
    "kernel-log.txt": "lines of the kernel's log, by step",
    "kernel.config": "how the kernel was configured",
    "kernel.jsonl": "what the kernel did, step by step",
    "kernel.txt": "release and module versions",
    "mail.txt": "the draft of a report",
    "no-script.txt": "why there is no script",
    "twin.jsonl": "what dmsnap expected, step by step",
}


def _what(name: str) -> str:
    return "an exception store" + (", in words" if name.endswith(".txt") else "")


def _blktests(find: Find, story: str) -> str:
    """A test in the form that blktests takes (``tests/dm/NNN``)."""
    return "\n".join(
        [
            "#!/bin/bash",
            "# SPDX-License-Identifier: GPL-2.0-only",
            f"# {_subject(find)}.",
            "#",
            "# Passes if the kernel does what is expected.",
            "",
            ". tests/dm/rc",
            "",
            f'DESCRIPTION="{re.sub(r"[^A-Za-z0-9 ().,:_-]", "", _subject(find))}"',
            "QUICK=1",
            "",
            "requires() {",
            "\t_have_program dmsetup".expandtabs(8),
            "\t_have_driver dm-snapshot".expandtabs(8),
            "\t_have_driver brd".expandtabs(8),
            "}",
            "",
            "test() {",
            '        echo "Running ${TEST_NAME}"',
            "",
            "        cat > \"$TMPDIR/reproduce.sh\" << 'END_OF_REPRODUCER'",
            story.rstrip("\n"),
            "END_OF_REPRODUCER",
            '        sh "$TMPDIR/reproduce.sh" --this-machine-is-disposable >> "$FULL" 2>&1',
            "        case $? in",
            '        0) echo "the defect is shown, see $FULL" ;;',
            "        1) ;;",
            '        *) SKIP_REASONS+=("the reproducer could not be run"); return ;;',
            "        esac",
            "",
            '        echo "Test complete"',
            "}",
        ]
    )


# -- reading one of a stranger -------------------------------------------------------------------


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a directory, or begins as a packed bundle does."""
    if path.is_dir():
        return True
    try:
        handle = open_stranger(path.resolve(), BUNDLE_BYTES_MAX)
    except (OSError, NotAFile):
        return False
    with os.fdopen(handle, "rb") as file:
        head = file.read(len(_XZ))
    return head.startswith(_ZSTD) or head == _XZ


def read_trace(path: Path) -> Trace:
    """The trace of a bundle.

    Raises:
        BadTrace: it holds none, or is not within bounds.
        OSError: it cannot be read.
    """
    if path.is_dir():
        try:
            return loads(read_stranger(path / TRACE_NAME, TRACE_BYTES_MAX))
        except NotAFile as fault:
            raise BadTrace(str(fault)) from fault
        except FileNotFoundError:
            raise BadTrace(
                f"'{path}' is a directory, and no bundle: it has no {TRACE_NAME}"
            ) from None
    try:
        with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for number, member in enumerate(tar):
                if number >= MEMBERS_MAX:
                    raise BadTrace(f"{path}: more than {MEMBERS_MAX} files; no bundle has them")
                _, _, name = member.name.rpartition("/")
                if name != TRACE_NAME or member.name.count("/") > 1:
                    continue
                if not member.isreg():
                    raise BadTrace(f"{path}: {TRACE_NAME} in it is not a regular file")
                if member.size > TRACE_BYTES_MAX:
                    raise BadTrace(
                        f"{path}: the trace in it has {member.size} bytes, and may have "
                        f"{TRACE_BYTES_MAX}"
                    )
                file = tar.extractfile(member)
                assert file is not None, "a regular file has contents"
                return loads(file.read(TRACE_BYTES_MAX + 1))
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, OverflowError) as fault:
        raise BadTrace(f"{path} is no bundle: {printable(str(fault))}") from fault
    except NotAFile as fault:
        raise BadTrace(str(fault)) from fault
    raise BadTrace(f"{path} is no bundle: it has no {TRACE_NAME}")


class _Unxz:
    """An .xz stream; how much memory its dictionary takes is not the stranger's choice alone."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._unpack = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX)

    def read(self, size: int) -> bytes:
        while not self._unpack.eof:
            more = self._packed.read(1 << 16) if self._unpack.needs_input else b""
            if self._unpack.needs_input and not more:
                raise EOFError("the file ends early")
            if data := self._unpack.decompress(more, size):
                return data
        return b""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Bounded(io.RawIOBase):
    """A stream that ends in an error once more was read from it than may be."""

    def __init__(self, below: _Readable, left: int) -> None:
        self._below = below
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        data = self._below.read(min(len(buffer), 1 << 20))
        self._left -= len(data)
        if self._left < 0:
            raise BadTrace(f"a bundle of more than {UNPACKED_BYTES_MAX >> 20} MiB; none may")
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The tar file in a packed one, as a stream that ends in time.

    Raises:
        BadTrace: it is packed in another way, or this Python cannot unpack it.
    """
    with os.fdopen(open_stranger(path.resolve(), BUNDLE_BYTES_MAX), "rb") as file:
        head = file.read(len(_XZ))
        file.seek(0)
        if head == _XZ:
            yield io.BufferedReader(_Bounded(_Unxz(file), UNPACKED_BYTES_MAX))
        elif head.startswith(_ZSTD):
            try:
                import zstandard
            except ImportError:
                raise BadTrace(
                    f"{path} is packed with zstd, which needs a package more: "
                    "pip install 'dmsnap[bundle]'; or unpack it, and name the directory"
                ) from None
            limited = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            try:
                with limited.stream_reader(file) as stream:
                    yield io.BufferedReader(_Bounded(stream, UNPACKED_BYTES_MAX))
            except zstandard.ZstdError as fault:
                raise BadTrace(f"{path} is no bundle: {fault}") from fault
        else:
            raise BadTrace(f"{path} is no bundle: neither .tar.zst nor .tar.xz")
