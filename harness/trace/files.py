"""Scenarios and observations as text: JSON lines with a schema version.

A *trace* is a header line and one step per line; an *observations file* is a header line and one
observation per line.  docs/trace-format.md describes both with examples, and a test keeps that page
and this code in agreement.  Reading checks form only: every field, type and bound.  Whether a step
makes sense (a device that was never created) is up to the side that executes it.
"""

import io
import re
import zlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from harness.errors import BadTrace
from harness.files import read_given, write_whole
from harness.trace.bounds import (
    LINE_BYTES_MAX,
    LINES_MAX,
    OBSERVATIONS_BYTES_MAX,
    STEPS_MAX,
    TRACE_BYTES_MAX,
    excess,
)
from harness.trace.observations import Observation, Raw, Runs, Stamped
from harness.trace.pattern import RAW_SECTORS_MAX, inflate
from harness.trace.steps import (
    IN_WORDS,
    LINE_PATTERN,
    SECTOR_MAX,
    AnyStep,
    Line,
    Name,
    ScenarioName,
    encode,
)

TRACE_VERSION: Final = 1
OBSERVATIONS_VERSION: Final = 1
_FIRST_STEP_LINE: Final = 2
VERSIONS_READ: Final = (1,)
"""Versions that this code reads, for both forms."""
TRACE_KEY: Final = "dmsnap-trace"
OBSERVATIONS_KEY: Final = "dmsnap-observations"

Seed = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Answers = Annotated[tuple[Annotated[int, Meta(ge=0, le=0xFFFFFFFF)], ...], Meta(max_length=100_000)]
T = TypeVar("T")


class Layer(StrEnum):
    """A layer of the comparison."""

    ERROR = "error"
    CONTENT = "content"
    STATUS = "status"
    TABLE = "table"
    EVENT = "event"
    UEVENT = "uevent"
    LOG = "log"
    STORE = "store"
    REQUESTS = "requests"


LAYERS_MAX: Final = len(Layer)


class NotCompared(Struct, frozen=True, forbid_unknown_fields=True):
    """A layer that a scenario leaves out of the comparison, and why."""

    layer: Layer
    reason: Annotated[Line, Meta(min_length=1)]


LongName = Annotated[str, Meta(pattern=LINE_PATTERN, min_length=1, max_length=255)]
NAMES_MAX: Final = 1024


class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a trace.

    Attributes:
        schema: version of the form; in JSON ``dmsnap-trace``.
        scenario: name of the scenario that the steps came from.
        seed: part of every stamp.
        not_compared: layers that cannot be compared, with their reasons.
        answers: what the twin's scheduler answers at its choice points, in order; after the last
            one, and in most traces from the start, it takes the first of the permitted orders.
        about: what the scenario is about, for people.
        names: device → how people know it, which may be longer than a sector can carry.
    """

    schema: int = msgspec.field(default=TRACE_VERSION, name=TRACE_KEY)
    scenario: ScenarioName
    seed: Seed = 0
    not_compared: Annotated[tuple[NotCompared, ...], Meta(max_length=LAYERS_MAX)] = ()
    answers: Answers = ()
    about: Line = ""
    names: Annotated[dict[Name, LongName], Meta(max_length=NAMES_MAX)] | msgspec.UnsetType = (
        msgspec.UNSET
    )


class Trace(Struct, frozen=True):
    """A scenario as data: its header and its steps.

    Attributes:
        lines: on which line of its file each step is; empty where that is line 2 and those that
            follow, as in every trace that dmsnap writes.
        file: the file that the lines are those of, where it is known; may be Python.
    """

    header: Header
    steps: tuple[AnyStep, ...]
    lines: tuple[int, ...] = ()
    file: str = ""

    def line(self, step: int) -> int:
        """The line of the trace that a step is on."""
        return self.lines[step] if self.lines else step + _FIRST_STEP_LINE


class ObservationsHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of an observations file.

    Attributes:
        schema: version of the form; in JSON ``dmsnap-observations``.
        scenario, seed: as in the trace that was executed.
        side: who observed.
        kernel: name of the kernel in the catalogue, empty for the twin.
        release, version: from the kernel's uname, empty for the twin.
        driver: how the kernel was driven (``ioctl`` or ``dmsetup``), empty for the twin.
        targets: target name → version.
        profile: facts found by probing the kernel, or those that the twin was given.
    """

    schema: int = msgspec.field(default=OBSERVATIONS_VERSION, name=OBSERVATIONS_KEY)
    scenario: ScenarioName
    seed: Seed = 0
    side: Literal["twin", "kernel"]
    kernel: str = ""
    release: str = ""
    version: str = ""
    driver: str = ""
    targets: dict[str, str] = {}
    profile: dict[str, bool | int | str] = {}


class Observations(Struct, frozen=True):
    """What one side saw of one scenario."""

    header: ObservationsHeader
    observations: tuple[Observation, ...]


class _AnyHeader(Struct, frozen=True):
    """Only what distinguishes the two forms and their versions."""

    trace: Any = msgspec.field(default=None, name=TRACE_KEY)
    observations: Any = msgspec.field(default=None, name=OBSERVATIONS_KEY)


_any_header = msgspec.json.Decoder(_AnyHeader)
_header = msgspec.json.Decoder(Header)
_step: msgspec.json.Decoder[AnyStep] = msgspec.json.Decoder(AnyStep)
_observations_header = msgspec.json.Decoder(ObservationsHeader)
_observation = msgspec.json.Decoder(Observation)

_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9_.+=-]+")
_VARIANT: Final = re.compile(r"[A-Za-z0-9_]+\[[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*\]")
"""A variant of a scenario, as most are; no plain name has a hyphen where this has a bracket."""
_FILE_NAME_MAX: Final = 100

_AT = re.compile(r"^(?P<message>.*) - at (?P<path>.+)$", re.DOTALL)
_NAMED = re.compile(r"(?:missing required|unknown) field `(?P<name>[^`]*)`")


def dumps(trace: Trace) -> bytes:
    """``trace`` as text; equal traces give equal bytes."""
    return _lines(encode(trace.header), map(encode, trace.steps))


def loads(data: bytes | str) -> Trace:
    """The trace in ``data``.

    Raises:
        BadTrace: ``data`` is not a trace of a version that can be read; step, line and field
            say where.
    """
    (at, first), *rest = _split(data, TRACE_KEY, TRACE_BYTES_MAX, LINE_BYTES_MAX)
    header = _decode(_header, first, at)
    steps = tuple(_decode(_step, text, line, step) for step, (line, text) in enumerate(rest))
    lines = tuple(line for line, _ in rest)
    if beyond := excess(steps):
        raise BadTrace(
            beyond.message, step=beyond.step, line=lines[beyond.step], field=beyond.field
        )
    plain = lines == tuple(range(_FIRST_STEP_LINE, _FIRST_STEP_LINE + len(lines)))
    return Trace(header, steps, () if plain else lines)


def read(path: Path) -> Trace:
    """The trace in the file ``path``.

    Raises:
        BadTrace: as for `loads`.
        OSError: the file cannot be read.
    """
    return loads(read_given(path, TRACE_BYTES_MAX))


def write(path: Path, trace: Trace) -> None:
    """Write ``trace`` to the file ``path``, atomically."""
    write_whole(path, dumps(trace))


def file_name(scenario: str) -> str:
    """A scenario's name as part of a file name; two names do not share one."""
    plain = _NOT_PLAIN.sub("-", scenario).strip("-.")[:_FILE_NAME_MAX]
    known = _VARIANT.fullmatch(scenario)
    if known or (plain == scenario and "-" not in plain):
        return plain
    return f"{plain}-{zlib.crc32(scenario.encode()):08x}"


def dumps_observations(observations: Observations) -> bytes:
    """``observations`` as text; equal values give equal bytes."""
    return _lines(encode(observations.header), map(encode, observations.observations))


def loads_observations(data: bytes | str) -> Observations:
    """The observations in ``data``.

    Raises:
        BadTrace: as for `loads`; also for a run with numbers that no device can have, so that
            turning runs back into bytes needs no check.
    """
    (at, first), *rest = _split(data, OBSERVATIONS_KEY, OBSERVATIONS_BYTES_MAX)
    header = _decode(_observations_header, first, at)
    found = []
    for line, text in rest:
        observation = _decode(_observation, text, line)
        check_observation(observation, line)
        found.append(observation)
    return Observations(header, tuple(found))


def read_observations(path: Path) -> Observations:
    """The observations in file ``path``; raises like `read`."""
    return loads_observations(read_given(path, OBSERVATIONS_BYTES_MAX))


def write_observations(path: Path, observations: Observations) -> None:
    """Write ``observations`` to the file ``path``, atomically."""
    write_whole(path, dumps_observations(observations))


def _lines(header: bytes, rest: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in (header, *rest))


def _split(
    data: bytes | str, key: str, bytes_max: int, line_max: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Non-empty lines of ``data`` with their numbers, the first one a header of form ``key``."""
    try:
        raw = data.encode() if isinstance(data, str) else data
    except UnicodeEncodeError as fault:
        raise BadTrace(f"not Unicode text: {fault.reason}") from None
    if len(raw) > bytes_max:
        raise BadTrace(f"the file is larger than the limit of {bytes_max >> 20} MiB")
    lines: list[tuple[int, bytes]] = []
    for at, line in enumerate(io.BytesIO(raw), 1):
        if at > LINES_MAX:
            raise BadTrace(f"more than {LINES_MAX} lines (the limit)", line=at)
        if not line.strip():
            continue
        if len(lines) > STEPS_MAX:
            raise BadTrace(f"more than {STEPS_MAX} lines after the header (the limit)", line=at)
        if line_max is not None and len(line) > line_max:
            raise BadTrace(f"the line is longer than the limit of {line_max >> 20} MiB", line=at)
        lines.append((at, line))
    if not lines:
        raise BadTrace(f"the file is empty; its first line must be a header with {key!r}")
    at, first = lines[0]
    kind = _decode(_any_header, first, at)
    version, other = (
        (kind.trace, kind.observations) if key == TRACE_KEY else (kind.observations, kind.trace)
    )
    if version is None:
        hint = (
            ("this is an observations file" if key == TRACE_KEY else "this is a trace")
            if other is not None
            else "the first line is not a header"
        )
        raise BadTrace(f"{hint}: {key!r} is missing", line=at, field=f"$.{key}")
    if isinstance(version, bool) or version not in VERSIONS_READ:
        known = ", ".join(map(str, VERSIONS_READ))
        raise BadTrace(
            f"version {str(version)[:40]} cannot be read; this dmsnap reads version "
            f"{known}; use the dmsnap that wrote the file",
            line=at,
            field=f"$.{key}",
        )
    return iter(lines)


def _decode(
    decoder: "msgspec.json.Decoder[T]", text: bytes, line: int, step: int | None = None
) -> T:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, ValueError) as fault:
        # ValueError: bytes that are not UTF-8, numbers with thousands of digits.
        message, path = str(fault), ""
        if isinstance(fault, msgspec.ValidationError):
            path = "$"
            if at := _AT.match(message):
                message, path = at["message"], at["path"].replace("`", "")
            if named := _NAMED.search(message):
                path += f".{named['name']}"
            for pattern, words in IN_WORDS.items():
                message = message.replace(f"matching regex {pattern!r}", words)
        raise BadTrace(message, line=line, field=path, step=step) from None
    except RecursionError:
        raise BadTrace("nested too deeply", line=line, step=step) from None


def check_observation(observation: Observation, line: int = 0) -> None:
    """Check that an observation's runs can be turned into bytes within bounds.

    Raises:
        BadTrace: no device can have such contents.
    """
    raw = 0
    for part, devices in (("content", observation.content), ("image", observation.image)):
        for device, runs in devices.items():
            _check_runs(runs, line, f"$.{part}[{device}]")
            for run in runs:
                if isinstance(run, Raw):
                    raw += run.count
                    if raw > RAW_SECTORS_MAX:
                        raise BadTrace(
                            f"more than {RAW_SECTORS_MAX} sectors without a stamp", line=line
                        )
                    inflate(run)


def _check_runs(runs: Runs, line: int, field: str) -> None:
    total = 0
    for index, run in enumerate(runs):
        where = f"{field}[{index}]"
        total += run.count
        if run.count < 1 or total > SECTOR_MAX:
            raise BadTrace(f"a run of {run.count} sectors", line=line, field=where)
        match run:
            case Stamped(device=device, generation=generation, sector=sector):
                try:
                    fits = len(device.encode("latin-1")) <= 16  # the stamp has 16 bytes for it
                except UnicodeEncodeError:
                    fits = False
                if not fits:
                    raise BadTrace(
                        f"no sector names a device {device[:40]!r}", line=line, field=where
                    )
                if not (
                    0 <= generation <= 0xFFFFFFFF and 0 <= sector <= 0xFFFFFFFFFFFFFFFF - run.count
                ):
                    raise BadTrace("no sector has such numbers", line=line, field=where)
            case Raw(packed=packed) if len(packed) > 64 + 520 * run.count:
                raise BadTrace("a raw run is longer than its sectors", line=line, field=where)
