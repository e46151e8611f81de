"""Mutated files through their readers: `make attack-readers ARGS='--count 1000000'`.

A trace, an observations file, a guest's journal, a report and a ledger are changed in a few
places, byte by byte or value by value, and read.  What must hold: nothing but a `BadTrace` is
raised, a trace that is read can be written and read again, what a journal has before its first
fault is a record, and the process takes no more than `MEMORY_BYTES` beside what it had
when it began (a limit of the kernel, so that more is a MemoryError).
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from harness.compare import diff
from harness.compare.diff import Verdict
from harness.errors import BadTrace, ProvisioningError
from harness.report.ledger import Ledger
from harness.scenarios.registry import catalogue
from harness.trace import files as codec
from harness.trace.files import Observations, ObservationsHeader, Trace
from harness.trace.observations import Observation
from harness.trace.steps import encode
from harness.twin import explore
from harness.twin.profile import Profile, named
from harness.verdict import result as model
from harness.verdict.result import Environment, Result, RunReport
from harness.wire.journal import Begin, Done, End, JournalReader, Observed, Ready

MEMORY_BYTES: Final = 256 << 20
SAMPLES: Final = ("bring_up[P]", "merge", "chunk_sizes", "fault")
_PIECES: Final = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\\",
    b"null",
    b"true",
    b"-1",
    b"1e9",
    b"1e999",
    b"\x00",
    b"\xff",
    b"\\ud800",
    b"9" * 30,
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 2000,
    "\u202e".encode(),
    b"\x1b[2J",
    b"18446744073709551616",
    b"4294967296",
    b"2147483648",
)
_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    1,
    1 << 31,
    1 << 54,
    1 << 63,
    1 << 64,
    -(1 << 63),
    1e308,
    0.5,
    "",
    "x" * 5000,
    "\x1b[2J",
    "a\nb",
    "\0",
    "{d}",
    "..",
    [],
    {},
    [[]],
    {"": ""},
    [0] * 2000,
    "AAAA",
    "raw",
    "zero",
    ["raw", 1, "eJwDAAAAAAE="],
    ["zero", 1 << 60],
    ["stamp", "d", 0, 0, 1],
)


def mutated(text: bytes, chance: random.Random) -> bytes:
    """``text`` changed in one to four places."""
    for _ in range(chance.randint(1, 4)):
        text = chance.choice((_bytes, _bytes, _lines, _value))(text, chance)
    return text


def _bytes(text: bytes, chance: random.Random) -> bytes:
    at, length = chance.randint(0, len(text)), chance.choice((0, 1, 1, 4, 30))
    piece = chance.choice(
        (
            *_PIECES,
            chance.randbytes(chance.randint(0, 4)),
            text[at : at + 40] * chance.randint(0, 3),
        )
    )
    return text[:at] + piece + text[at + length :]


def _lines(text: bytes, chance: random.Random) -> bytes:
    lines = text.split(b"\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(3):
        case 0:
            del lines[one]
        case 1:
            lines[one], lines[other] = lines[other], lines[one]
        case _:
            lines.insert(one, lines[other])
    return b"\n".join(lines)


def _value(text: bytes, chance: random.Random) -> bytes:
    """One value of one JSON line, or of the document, is another one."""
    lines = text.split(b"\n") if b"\n{" in text else [text]
    at = chance.randrange(len(lines))
    try:
        document = json.loads(lines[at])
    except (ValueError, RecursionError):
        return text
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        inner = waiting.pop()
        keys = (
            range(len(inner))
            if isinstance(inner, list)
            else list(inner)
            if isinstance(inner, dict)
            else ()
        )
        for key in keys:
            places.append((inner, key))
            waiting.append(inner[key])
    if places:
        inner, key = chance.choice(places)
        if isinstance(inner, dict) and chance.random() < 0.2:
            inner[str(chance.choice(_VALUES))[:40]] = inner.pop(key)
        else:
            inner[key] = chance.choice(_VALUES)
    lines[at] = json.dumps(document).encode()
    return b"\n".join(lines)


def _read_trace(text: bytes, _place: Path) -> None:
    trace = codec.loads(text)
    again = codec.loads(codec.dumps(trace))
    if (again.header, again.steps) != (trace.header, trace.steps):
        raise AssertionError("another trace when it is written and read again")


def _read_observations(text: bytes, _place: Path) -> None:
    seen = codec.loads_observations(text)
    if codec.loads_observations(codec.dumps_observations(seen)) != seen:
        raise AssertionError("other observations when they are written and read again")


def _read_results(text: bytes, _place: Path) -> None:
    model.loads(text)


def _read_ledger(text: bytes, place: Path) -> None:
    place.write_bytes(text)
    Ledger(place, {}).finished()


def _read_journal(trace: Trace, twin: Sequence[Observation], text: bytes, place: Path) -> None:
    """Read, and compared with what the twin saw, as a run does."""
    place.write_bytes(text)
    reader = JournalReader(place)
    records = reader.new()
    for record in records:
        if isinstance(record, Ready):
            try:
                Profile.from_probe(record.probe)
            except ProvisioningError as fault:
                raise BadTrace(str(fault)) from None
    seen = [record.observation for record in records if isinstance(record, Observed)]
    if [each.step for each in seen] == list(range(len(twin))):
        for divergence in diff.compare(trace, seen, twin).divergences:
            diff.render(divergence)
    if reader.faults:
        raise BadTrace(reader.faults[0])


Reader = Callable[[bytes, Path], None]


def samples() -> list[tuple[Reader, bytes]]:
    """Readers, each with a sound file."""
    found: list[tuple[Reader, bytes]] = []
    results = []
    chosen = [scenario for name, scenario in catalogue().items() if name.startswith(SAMPLES)][::4][
        :12
    ]
    for scenario in chosen:
        trace = scenario.trace(1)
        found.append((_read_trace, codec.dumps(trace)))
        profile = named("6.12")
        seen = explore.run(trace.steps, 1, profile, explore.answers_of(()))
        text = codec.dumps_observations(
            Observations(
                ObservationsHeader(scenario="s", side="twin", profile=profile.facts()), seen
            )
        )
        if len(text) < 1 << 16:
            found.append((_read_observations, text))
            ready = Ready("6.12", "#1", probe=profile.facts())
            journal = (ready, Begin("s", 1), *map(Observed, seen), End("s", ()), Done())
            read = partial(_read_journal, trace, seen)
            found.append((read, b"".join(encode(each) + b"\n" for each in journal)))
        results.append(Result(scenario=scenario.name, kernel="k", verdict=Verdict.SAME))
    found.append(
        (
            _read_results,
            model.dumps(
                RunReport(environment=Environment(kernels={"k": "6"}), results=tuple(results))
            ),
        )
    )
    found.append(
        (_read_ledger, b"".join(encode({"key": "k", "result": each}) + b"\n" for each in results))
    )
    return found


def attack(count: int, seed: int) -> Counter[str]:
    """Read ``count`` mutated files; how many were read, and how many refused.

    Raises:
        Exception: what no reader may raise.
    """
    chance = random.Random(seed)
    sound = samples()
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        for number in range(count):
            reader, text = sound[number % len(sound)]
            bad = mutated(text, chance)
            try:
                reader(bad, Path(directory, "file"))
            except BadTrace:
                ends["refused"] += 1
            except Exception:
                Path(tempfile.gettempdir(), f"dmsnap-attack-{seed}-{number}").write_bytes(bad)
                raise
            else:
                ends["read"] += 1
    return ends


def main() -> None:
    """Attack, and tell the figures."""
    parser = argparse.ArgumentParser(prog="make attack-readers", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sound = samples()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    started = time.monotonic()
    ends = attack(options.count, options.seed)
    print(
        f"{options.count} files, seed {options.seed}, {len(sound)} sound ones: "
        f"{ends['refused']} refused, {ends['read']} read, no other exception, in "
        f"{time.monotonic() - started:.0f} s",
        file=sys.stdout,
    )


if __name__ == "__main__":
    main()
