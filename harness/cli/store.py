"""``dmsnap store``: for whoever holds a COW device.

``show``, ``usage``, ``map`` and ``check`` write nothing but what they print.  ``extract`` and
``rebuild`` make a new file, whole or not there.  ``merge --in-place`` alone changes what it is
given, and says so in its name.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from harness.cli.options import EXIT_DIFFERS
from harness.errors import MalformedStore, Refused

if TYPE_CHECKING:
    from harness.media import Medium
    from harness.store import Store

SCHEMA: Final = 1
"""Version of what ``--json`` prints; in each document as ``dmsnap-store``."""
_NAMED = click.Path(path_type=Path, dir_okay=False)

cow_argument = click.argument("cow", type=_NAMED, metavar="COW")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
force_option = click.option(
    "--force", is_flag=True, help="Replace what is there; write a block device."
)
duplicates_option = click.option(
    "--duplicates",
    type=click.Choice(["first", "last"]),
    default=None,
    help="The exception that counts where a chunk has several.  [default: refuse such a store]",
)


@click.group(short_help="Look into a COW device, and work on it offline.")
def store() -> None:
    """Look into a COW device, and do without a kernel what it would do.

    COW is a file or a block device with a persistent exception store (P, PO); of LVM2, the hidden
    volume that ends in -cow.  docs/store.md
    """


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, for what takes long; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    from harness.report.gate import guarded

    console = guarded(Console(stderr=True))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def _opened(cow: Path) -> "Iterator[tuple[Medium, Store]]":
    """A COW device, and the store on it, read in little memory."""
    from harness.media import reading
    from harness.store import survey

    with reading(cow) as medium:
        with _progress("reading areas", max(1, medium.size_bytes // 4096)) as tell:
            found = survey(medium.file(), tell)
        yield medium, found


def _print_json(command: str, **fields: Any) -> None:
    document = {"dmsnap-store": SCHEMA, "command": command, **fields}
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=1).decode())


def _status(found: "Store") -> str:
    """What the kernel's status line would say of a snapshot on it."""
    from harness.store import State
    from harness.units import sector_of_byte

    if found.state is State.INVALID:
        return "Invalid"
    total = sector_of_byte(found.size_bytes)
    if found.state is State.NEW:
        return f"(a new store, of the chunk size that the table says)/{total}"
    return f"{found.allocated_sectors}/{total} {found.metadata_sectors}"


@store.command(short_help="Header, areas, usage, the kernel's status line.")
@cow_argument
@json_option
def show(cow: Path, as_json: bool) -> None:
    """Header, areas, usage, the status line that the kernel would print, and what is odd."""
    from harness.store import check as findings_of

    with _opened(cow) as (_, found):
        findings = findings_of(found)
        header = found.header
        about = {
            "state": found.state.value,
            "header": {
                "magic": header.magic,
                "valid": header.valid,
                "version": header.version,
                "chunk_sectors": header.chunk_sectors,
            },
            "size_bytes": found.size_bytes,
            "areas": found.area_count,
            "exceptions": found.count,
            "committed": found.committed,
            "next_free": found.next_free,
            "status": _status(found),
            "findings": [msgspec.to_builtins(each) for each in findings],
        }
    if as_json:
        _print_json("show", **about)
        return
    click.echo(f"{cow}: a store that is {found.state.value}")
    click.echo(
        f"  header      magic {header.magic:#010x}, valid {header.valid}, version "
        f"{header.version}, chunk size {header.chunk_sectors} sectors"
    )
    click.echo(
        f"  areas       {found.area_count}"
        + (f" of {found.entries_per_area} entries" if found.area_count else "")
    )
    click.echo(f"  exceptions  {found.count}, {found.committed} of them in the last area")
    click.echo(f"  next chunk  {found.next_free}")
    click.echo(f"  status      {_status(found)}")
    for finding in findings:
        click.echo(f"  {'damage' if finding.damage else 'remark'}      {finding.message}")


@store.command(short_help="The numbers of the status line, and the room left.")
@cow_argument
@json_option
def usage(cow: Path, as_json: bool) -> None:
    """The numbers of the status line, and how many chunks can still be copied."""
    from harness.store import State
    from harness.store.room import room
    from harness.units import sector_of_byte

    with _opened(cow) as (_, found):
        left = room(found) if found.state is State.VALID else 0
        total = sector_of_byte(found.size_bytes)
        if as_json:
            _print_json(
                "usage",
                state=found.state.value,
                allocated_sectors=found.allocated_sectors,
                total_sectors=total,
                metadata_sectors=found.metadata_sectors if found.area_count else 0,
                chunks_left=left,
                chunk_sectors=found.chunk_sectors,
            )
            return
        click.echo(_status(found))
        if found.state is State.VALID:
            click.echo(f"{left} chunks of {found.chunk_sectors} sectors are left")


@store.command("map", short_help="Which chunk of the origin lives where.")
@cow_argument
@click.option(
    "--order", type=click.Choice(["chunk", "allocated"]), default="allocated", show_default=True
)
@click.option(
    "--duplicates",
    type=click.Choice(["first", "last"]),
    default="last",
    show_default=True,
    help="With --order chunk: the exception that counts where a chunk has several.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def map_(cow: Path, order: str, duplicates: str, as_json: bool) -> None:
    """Which chunk of the origin lies where, as runs: old chunk, new chunk, how many."""
    from harness.store.order import in_chunk_order, runs

    with _opened(cow) as (_, found):
        blocks = (
            in_chunk_order(found, "first" if duplicates == "first" else "last")
            if order == "chunk"
            else found.exceptions()
        )
        if as_json:
            head = {
                "dmsnap-store": SCHEMA,
                "command": "map",
                "order": order,
                "chunk_sectors": found.chunk_sectors,
                "exceptions": found.count,
            }
            click.echo(msgspec.json.encode(head).decode())
        shape = '{"old":%d,"new":%d,"count":%d}\n' if as_json else "%d %d %d\n"
        for block in runs(blocks):
            for start in range(0, len(block), 4096):
                some = block[start : start + 4096].tolist()
                sys.stdout.write("".join(shape % each for each in some))


@store.command()
@cow_argument
@click.option(
    "--origin-sectors", type=click.IntRange(1), default=None, help="Size of the origin, if known."
)
@json_option
def check(cow: Path, origin_sectors: int | None, as_json: bool) -> None:
    """Every inconsistency, with its bytes on the device.

    The exit status is 0 where nothing is damaged, 1 where a kernel would refuse the store or show
    wrong data, 2 where it cannot be read.
    """
    from harness.store import check as findings_of

    try:
        with _opened(cow) as (_, found):
            findings = findings_of(found, origin_sectors=origin_sectors)
    except MalformedStore as fault:
        if as_json:
            _print_json(
                "check",
                kernel="refuses",
                errno=fault.errno,
                offset=fault.offset,
                field=fault.field,
                message=str(fault),
                findings=[],
            )
        else:
            click.echo(f"the kernel refuses it ({fault.errno}): {fault}")
        raise click.exceptions.Exit(EXIT_DIFFERS) from None
    damaged = any(finding.damage for finding in findings)
    if as_json:
        _print_json(
            "check",
            kernel="loads",
            state=found.state.value,
            findings=[msgspec.to_builtins(each) for each in findings],
        )
    else:
        for finding in findings:
            click.echo(f"{'damage' if finding.damage else 'remark'}: {finding.message}")
        click.echo(
            f"{found.count} exceptions, state {found.state.value}: "
            + ("damaged; the kernel loads it all the same" if damaged else "sound")
        )
    if damaged:
        raise click.exceptions.Exit(EXIT_DIFFERS)


@store.command(short_help="Write what the snapshot shows to a file.")
@cow_argument
@click.argument("origin", type=_NAMED)
@click.argument("output", type=_NAMED)
@click.option(
    "--sectors",
    type=click.IntRange(1),
    default=None,
    help="Size of the snapshot.  [default: ORIGIN's]",
)
@duplicates_option
@force_option
def extract(
    cow: Path, origin: Path, output: Path, sectors: int | None, duplicates: str | None, force: bool
) -> None:
    """Write what the snapshot shows, from ORIGIN and COW, to OUTPUT: a sparse file.

    That is also what a merge would make of ORIGIN.
    """
    from harness.media import check_free, made, reading
    from harness.store.overlay import check_readable
    from harness.store.overlay import extract as write
    from harness.units import bytes_of_sectors

    check_free(output, force=force)
    with _opened(cow) as (medium, found), reading(origin) as base:
        check_readable(found, duplicates=duplicates is not None)
        length = base.size_bytes if sectors is None else bytes_of_sectors(sectors)
        if length > base.size_bytes:
            raise Refused(f"{origin} has {base.size_bytes} bytes, less than --sectors asks for")
        _not_the_same(output, cow, origin)
        with made(output, length, force=force) as out, _progress("extracting", length) as tell:
            write(
                found,
                medium,
                base,
                out,
                length,
                which="first" if duplicates == "first" else "last",
                tell=tell,
            )
    click.echo(f"{output}: {length} bytes")


@store.command(short_help="Merge the snapshot into its origin, offline.")
@cow_argument
@click.argument("origin", type=_NAMED)
@click.option("--in-place", "consent", is_flag=True, help="Change ORIGIN, and empty COW.")
def merge(cow: Path, origin: Path, consent: bool) -> None:
    """Bring the snapshot's content into ORIGIN, and leave an empty store on COW.

    It can be killed at any moment: start it again.  Nothing may be active on either.  To keep
    ORIGIN as it is, use extract: what it writes is the same.
    """
    from harness.media import in_place
    from harness.store import survey
    from harness.store.merge import merge as bring_home
    from harness.store.overlay import check_readable
    from harness.units import bytes_of_sectors

    if not consent:
        raise Refused(
            "merge changes ORIGIN and COW: say --in-place if you mean that; for a merged copy, "
            "use dmsnap store extract"
        )
    _not_the_same(cow, origin)
    with in_place(cow) as medium, in_place(origin) as base:
        found = survey(medium.file())
        check_readable(found, duplicates=False)
        total = found.count * bytes_of_sectors(found.chunk_sectors)
        with _progress("merging", total) as tell:
            bring_home(found, medium, base, tell=tell)
    click.echo(f"{origin}: {found.count} exceptions merged; {cow} holds an empty store")


@store.command(short_help="Make a store from two images.")
@click.argument("origin", type=_NAMED)
@click.argument("image", type=_NAMED)
@click.argument("output", type=_NAMED, metavar="COW")
@click.option(
    "--chunk-size", type=click.IntRange(1), default=8, show_default=True, help="In sectors."
)
@force_option
def rebuild(origin: Path, image: Path, output: Path, chunk_size: int, force: bool) -> None:
    """Make a store with which a snapshot of ORIGIN shows IMAGE; a kernel can activate it."""
    from harness.media import check_free, made, reading
    from harness.store.layout import chunk_size_fault
    from harness.store.rebuild import rebuild as build

    if fault := chunk_size_fault(chunk_size, 1):
        raise Refused(f"chunk size {chunk_size}: {fault}; 8 is usual")
    check_free(output, force=force)
    _not_the_same(output, origin, image)
    with reading(origin) as base, reading(image) as wanted:
        if base.size_bytes != wanted.size_bytes:
            raise Refused(
                f"{origin} has {base.size_bytes} bytes, {image} {wanted.size_bytes}: a snapshot is "
                "as large as its origin"
            )
        with made(output, force=force) as out, _progress("comparing", base.size_bytes) as tell:
            count = build(base, wanted, out, chunk_size, tell=tell)
    click.echo(f"{output}: {count} exceptions")


def _not_the_same(*paths: Path) -> None:
    """See that no two are one file.

    Raises:
        Refused: two are.
    """
    for index, one in enumerate(paths):
        for other in paths[index + 1 :]:
            if one.exists() and other.exists() and one.samefile(other):
                raise Refused(f"{one} and {other} are one file: name two")
