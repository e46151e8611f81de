"""What a trace says is data: attacks on either side, and on the memory of who reads one."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadScenario, BadTrace
from harness.kernel.drivers.dmsetup import DmsetupDriver, table_text
from harness.kernel.drivers.driver import Line
from harness.kernel.drivers.shell import Answer
from harness.scenarios.registry import catalogue
from harness.trace import bounds
from harness.trace import files as codec
from harness.trace.observations import Observation
from harness.trace.steps import Disk, Load, TargetLine, Write
from harness.twin.backend import TwinBackend
from harness.twin.profile import named

HEAD = '{"dmsnap-trace":1,"scenario":"t"}\n'
MEMORY_BYTES = 256 << 20
"""What reading anything may add to a process."""
FOREIGN = "0 8 linear /dev/vda 0"


def text(*steps: dict[str, Any], head: str = HEAD) -> str:
    return head + "".join(json.dumps(step) + "\n" for step in steps)


def load(**line: Any) -> dict[str, Any]:
    return {
        "do": "load",
        "name": "s",
        "table": [{"start": 0, "length": 8, "type": "linear", "args": "{d} 0"} | line],
    }


def device(name: str, kind: str, length: int, args: str) -> list[dict[str, Any]]:
    return [
        {"do": "create", "name": name},
        {
            "do": "load",
            "name": name,
            "table": [{"start": 0, "length": length, "type": kind, "args": args}],
        },
        {"do": "resume", "name": name},
    ]


def disk(name: str, sectors: int, **more: Any) -> dict[str, Any]:
    return {"do": "disk", "name": name, "sectors": sectors} | more


# -- a line that is two, to dmsetup -----------------------------------------------------------


class FakeShell:
    """Keeps what would be typed."""

    def __init__(self) -> None:
        self.given = ""

    def run(self, argv: list[str], *, given: str = "", limit_s: float) -> Answer:
        del argv, limit_s
        self.given = given
        return Answer(0, "", "")


@pytest.mark.parametrize(
    "line",
    [
        {"type": f"error \n{FOREIGN}\n8 8 linear"},
        {"args": f"{{d}} 0\n{FOREIGN}"},
        {"args": "{d} 0" + " " * 4079 + FOREIGN},  # dmsetup reads 4096 bytes at once
        {"args": "{d} 0 # what the kernel's own parser takes for an argument"},
    ],
)
def test_a_table_is_what_both_drivers_read(line: dict[str, Any]) -> None:
    """Seen before: the line of another block device stood in what dmsetup was given."""
    with pytest.raises(BadTrace) as caught:
        codec.loads(text(load(**line)))
    [named_field] = line
    assert (caught.value.step, caught.value.line, caught.value.field) == (
        0,
        2,
        f"$.table[0].{named_field}",
    )
    driver = DmsetupDriver.__new__(DmsetupDriver)
    shell = FakeShell()
    vars(driver).update(_shell=shell, _program="dmsetup")
    parts: dict[str, Any] = {"type": "linear", "args": "/dev/x 0"} | line
    with pytest.raises(BadScenario, match="one line"):
        driver.load("s", [Line(0, 8, parts["type"], parts["args"])])
    assert shell.given == ""


def test_the_longest_arguments_still_are_one_line_to_dmsetup() -> None:
    args = "{a}" * (512 // 3)
    [step] = codec.loads(text(load(args=args))).steps
    assert isinstance(step, Load)
    written = step.table[0].args.replace("{a}", "/dev/mapper/a")
    assert table_text([Line(1 << 54, 1 << 54, "a" * 15, written)]).count("\n") == 1


# -- what the two sides would understand differently ------------------------------------------


@pytest.mark.parametrize(
    ("step", "field"),
    [
        (load(type=""), "$.table[0].type"),
        (load(type="a b"), "$.table[0].type"),
        (load(type="x" * 16), "$.table[0].type"),
        (load(type="linéar"), "$.table[0].type"),
        (load(args="{d}\t0"), "$.table[0].args"),
        (load(args="{d} 0\0"), "$.table[0].args"),
        (load(args="{d}\u00a00"), "$.table[0].args"),
        (load(args="{d}\u20280"), "$.table[0].args"),
        (load(args="x" * 513), "$.table[0].args"),
        ({"do": "load", "name": "s", "table": load()["table"] * 600}, "$.table"),
        ({"do": "message", "name": "s", "text": "a\nb"}, "$.text"),
        ({"do": "message", "name": "s", "text": "a\0b"}, "$.text"),
        ({"do": "message", "name": "s", "text": "\x1b[2J"}, "$.text"),
        ({"do": "message", "name": "s", "text": "x" * 2000}, "$.text"),
        ({"do": "parameter", "name": "../../x", "value": "1"}, "$.name"),
        ({"do": "parameter", "name": "x" * 99, "value": "1"}, "$.name"),
        ({"do": "parameter", "name": "ﬁ", "value": "1"}, "$.name"),
        ({"do": "parameter", "name": "x", "value": "1\0"}, "$.value"),
        ({"do": "parameter", "name": "x", "value": "1" * 99}, "$.value"),
        ({"do": "disk", "name": "..", "sectors": 8}, "$.name"),
        ({"do": "create", "name": "control"}, "$.name"),
        ({"do": "rename", "name": "s", "to": "."}, "$.to"),
        ({"do": "poke", "device": "d", "sector": 0, "data": "A" * (11 << 20)}, "$.data"),
    ],
)
def test_what_the_sides_would_take_differently_is_refused(step: dict[str, Any], field: str) -> None:
    made = {"do": "create", "name": "s"}
    with pytest.raises(BadTrace) as caught:
        codec.loads(text(made, step))
    assert (caught.value.step, caught.value.line, caught.value.field) == (1, 3, field)


@pytest.mark.parametrize(
    "head",
    [
        {"scenario": ""},
        {"scenario": "a\nb"},
        {"scenario": "\x1b[2J"},
        {"scenario": "x" * 300},
        {"about": "a\0"},
        {"about": "x" * 5000},
        {"answers": [0] * 200_000},
        {"not_compared": [{"layer": "log", "reason": "a\nb"}]},
        {"not_compared": [{"layer": "log", "reason": "x"}] * 10},
    ],
)
def test_a_header_is_bounded(head: dict[str, Any]) -> None:
    with pytest.raises(BadTrace) as caught:
        codec.loads(json.dumps({"dmsnap-trace": 1, "scenario": "t"} | head) + "\n")
    assert caught.value.line == 1
    assert caught.value.field.startswith("$.")


def test_nothing_of_the_catalogue_is_near_a_bound() -> None:
    for name, scenario in catalogue().items():
        trace = scenario.trace(1)
        data = codec.dumps(trace)
        assert len(data) < bounds.TRACE_BYTES_MAX / 8, name
        assert len(trace.steps) < bounds.STEPS_MAX / 8, name
        assert codec.loads(data) == trace


# -- memory and time --------------------------------------------------------------------------


def stack(height: int) -> list[dict[str, Any]]:
    steps = [disk("d", 1024)]
    for number in range(height):
        below = f"m{number - 1}" if number else "d"
        steps += device(f"m{number}", "linear", 1024, f"{{{below}}} 0")
    return steps


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([disk("d", 1 << 31), {"do": "image", "device": "d"}], "limit is 8388608"),
        ([disk("d", 8 << 20, fill="stamp")], "that are not zeros"),
        ([disk(f"d{n}", 8) for n in range(10_000)], "may be 256 disks"),
        ([disk(f"d{n}", 40_000) for n in range(250)], "limit is 8388608"),
        (stack(600), "are stacked"),
        (
            [
                *device("a", "linear", 8, "{b} 0"),
                *device("b", "linear", 8, "{c} 0"),
                *device("c", "linear", 8, "{a} 0"),
            ],
            "form a cycle",
        ),
        (
            [
                *stack(20),
                *[
                    dict(step)
                    for number in range(20)
                    for step in device(f"n{number}", "linear", 8, f"{{n{number + 1}}} 0")
                ],
                *device("n20", "linear", 8, "{m19} 0"),
            ],
            "are stacked",
        ),
        ([{"do": "create", "name": f"s{n}"} for n in range(1100)], "mapped devices at a time"),
        ([{"do": "read", "device": "z", "sector": 0, "sectors": 1 << 31}], "limit for a scenario"),
        (
            [{"do": "zeroout", "device": "z", "sector": 0, "sectors": 1 << 31}],
            "limit for a scenario",
        ),
        (
            [{"do": "write", "device": "z", "sector": 0, "sectors": 1 << 20, "buffered": True}],
            "page cache",
        ),
        ([disk("d", 1 << 20), *[{"do": "image", "device": "d"}] * 20], "limit for a scenario"),
        ([{"do": "examine"}] * 30_000, "lines after the header"),
    ],
)
def test_a_trace_that_asks_for_too_much_is_refused(steps: list[dict[str, Any]], says: str) -> None:
    """Seen before: 8 GiB for 16 M sectors, a traceback of 600 devices, no end to a read."""
    with pytest.raises(BadTrace, match=says):
        codec.loads(text(*steps))


def test_a_stack_may_be_as_high_as_it_may() -> None:
    trace = codec.loads(
        text(
            *stack(bounds.STACK_MAX),
            {"do": "write", "device": f"m{bounds.STACK_MAX - 1}", "sector": 0, "sectors": 8},
        )
    )
    twin = TwinBackend(named("6.12"))
    seen = [twin.execute(index, step) for index, step in enumerate(trace.steps)]
    assert {each.error for each in seen} == {None}


def test_renamed_devices_keep_their_place_in_a_stack() -> None:
    steps = stack(bounds.STACK_MAX)
    top = f"m{bounds.STACK_MAX - 1}"
    steps += [{"do": "rename", "name": top, "to": "t"}, {"do": "rename", "name": "m3", "to": "x"}]
    codec.loads(text(*steps))
    with pytest.raises(BadTrace, match="are stacked"):
        codec.loads(text(*steps, *device("u", "linear", 8, "{t} 0")))
    codec.loads(
        text(
            *steps,
            {"do": "remove", "name": "t"},
            *device("t", "linear", 8, "{d} 0"),
            *device("u", "linear", 8, "{t} 0"),
        )
    )


def test_a_disk_takes_memory_where_it_is_written_and_only_so_much() -> None:
    twin = TwinBackend(named("6.12"))
    twin.begin(1)
    twin.execute(0, Disk(name="d", sectors=8 << 20))
    region = 2048
    fits = bounds.WRITTEN_SECTORS_MAX // region
    for number in range(fits):
        twin.world.disks["d"].view(number * region, 1)
    twin.world.disks["d"].view(0, fits * region)
    with pytest.raises(BadScenario, match="write less") as caught:
        twin.execute(1, Write(device="d", sector=fits * region, sectors=1))
    assert caught.value.step == 1
    twin.begin(1)
    twin.execute(0, Disk(name="d", sectors=8))
    assert twin.execute(1, Write(device="d", sector=0, sectors=8)).error is None


@pytest.mark.parametrize("fault", [MemoryError, RecursionError])
def test_what_has_no_room_is_told_with_its_step(
    fault: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = TwinBackend(named("6.12"))

    def full(_step: object) -> Observation:
        raise fault

    monkeypatch.setattr(twin, "_do", full)
    with pytest.raises(BadScenario, match="no room") as caught:
        twin.execute(3, Disk(name="d", sectors=8))
    assert caught.value.step == 3


def limited(
    code: str, *arguments: object, given: Any = None, memory: int = MEMORY_BYTES
) -> "subprocess.CompletedProcess[str]":
    """Run Python with that much more memory than it has once dmsnap is imported."""
    prelude = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from harness.trace import files\nfrom harness.verdict import result\n"
        "from harness.cli.main import main\nimport harness.campaign.replay\n"
        "import harness.report.beside\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        f"most = pages * {resource.getpagesize()} + {memory}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        stdin=given or subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


MAIN = "main(sys.argv[1:])"


@pytest.mark.parametrize("kind", ["zeros", "fifo", "directory", "long", "endless lines", "socket"])
def test_what_is_no_file_of_a_trace_is_not_read(tmp_path: Path, kind: str) -> None:
    """Seen before: /dev/zero was read until memory ended, and a FIFO was waited for."""
    place = tmp_path / "t.trace"
    match kind:
        case "zeros":
            place.symlink_to("/dev/zero")
        case "fifo":
            os.mkfifo(place)
        case "directory":
            place.mkdir()
        case "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(place))
        case "long":
            with place.open("wb") as file:
                file.truncate(1 << 40)
        case _:
            place.write_bytes(HEAD.encode() + b"\n" * (bounds.TRACE_BYTES_MAX - 100))
    done = limited(MAIN, "replay", "--on", "twin", "--output", tmp_path / "out", place)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert len(done.stderr.splitlines()[-1:]) == 1


def test_standard_input_is_bounded(tmp_path: Path) -> None:
    with Path("/dev/zero").open("rb") as zeros:
        done = limited(MAIN, "replay", "--on", "twin", "--output", tmp_path, "-", given=zeros)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "limit of 64 MiB" in line


@pytest.mark.parametrize(
    "data",
    [
        HEAD + '{"do":"examine"}\n' * 300_000,
        HEAD
        + '{"do":"load","name":"s","table":['
        + ",".join(['{"start":0,"length":1,"type":"x"}'] * 300_000)
        + "]}\n",
        '{"dmsnap-trace":1,"scenario":"t","answers":[' + "1," * 1_500_000 + "1]}\n",
        "[" * 3_000_000,
        HEAD + "[" * 3_000_000,
        HEAD + '{"a":' * 500_000,
        HEAD + '{"do":"read","sector":' + "9" * 3_000_000 + "}",
    ],
    ids=["steps", "lines", "answers", "brackets", "brackets behind", "objects", "digits"],
)
def test_reading_a_trace_takes_little_memory(tmp_path: Path, data: str) -> None:
    place = tmp_path / "t.trace"
    place.write_text(data)
    done = limited(
        "try:\n    files.read(Path(sys.argv[1]))\n"
        "except files.BadTrace as fault:\n    print('bad', fault)",
        place,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("bad ")


def test_shared_zeros_write_zeros() -> None:
    twin = TwinBackend(named("6.12"))
    line = TargetLine(0, 1 << 40, "zero")
    steps = codec.loads(
        text(
            *device("z", "zero", 1 << 40, ""),
            {"do": "zeroout", "device": "z", "sector": 0, "sectors": 1 << 23},
        )
    ).steps
    assert isinstance(steps[1], Load)
    assert steps[1].table == (line,)
    assert [twin.execute(i, step).error for i, step in enumerate(steps)] == [None] * 4
