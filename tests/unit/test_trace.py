"""Traces and observations files: errors say where, and the page describes what the code reads."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.errors import BadTrace
from harness.store.layout import DiskHeader
from harness.trace import files as codec
from harness.trace import pattern, rules
from harness.trace.files import Header, Layer, NotCompared, Observations, ObservationsHeader, Trace
from harness.trace.observations import DeviceState, Observation, Stamped, UEvent
from harness.trace.steps import AnyStep, Disk, Fault, Parallel, Poke, Read, Write, encode

PAGE = (Path(__file__).parents[2] / "docs" / "trace-format.md").read_text()
HEAD = '{"dmsnap-trace":1,"scenario":"t"}\n'
OBS_HEAD = '{"dmsnap-observations":1,"scenario":"t","side":"twin"}\n'


def examples(kind: str) -> list[str]:
    return re.findall(rf"```json {kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("", 0, "", "empty"),
        ("\n \n", 0, "", "empty"),
        ("nonsense\n", 1, "", "malformed"),
        ("{}\n", 1, "$.dmsnap-trace", "not a header"),
        ('{"dmsnap-trace":2,"scenario":"t"}\n', 1, "$.dmsnap-trace", "reads version 1"),
        ('{"dmsnap-trace":"1","scenario":"t"}\n', 1, "$.dmsnap-trace", "reads version 1"),
        ('{"dmsnap-trace":true,"scenario":"t"}\n', 1, "$.dmsnap-trace", "reads version 1"),
        (OBS_HEAD, 1, "$.dmsnap-trace", "observations file"),
        ('{"dmsnap-trace":1}\n', 1, "$.scenario", "missing"),
        ('{"dmsnap-trace":1,"scenario":"t","seeed":1}\n', 1, "$.seeed", "unknown field"),
        ('{"dmsnap-trace":1,"scenario":"t","seed":-1}\n', 1, "$.seed", ">= 0"),
        (
            '{"dmsnap-trace":1,"scenario":"t","not_compared":[{"layer":"smell","reason":"x"}]}\n',
            1,
            "$.not_compared[0].layer",
            "smell",
        ),
        (
            '{"dmsnap-trace":1,"scenario":"t","not_compared":[{"layer":"log","reason":""}]}\n',
            1,
            "$.not_compared[0].reason",
            "length",
        ),
        (HEAD + '\n{"do":"read","device":"a","sector":0,"sectors":"8"}\n', 3, "$.sectors", "int"),
        (HEAD + '{"do":"read","device":"a","sector":0}\n', 2, "$.sectors", "missing"),
        (HEAD + '{"do":"read","device":"a","sector":-1,"sectors":1}\n', 2, "$.sector", ">= 0"),
        (
            HEAD + '{"do":"read","device":"a/b","sector":0,"sectors":1}\n',
            2,
            "$.device",
            "of 1 to 16 letters",
        ),
        (HEAD + '{"do":"dance"}\n', 2, "$.do", "dance"),
        (HEAD + '{"do":"examine","now":1}\n', 2, "$.now", "unknown field"),
        (
            HEAD
            + '{"do":"load","name":"s","table":[{"start":0,"length":1,"type":"x","arg":""}]}\n',
            2,
            "$.table[0].arg",
            "unknown field",
        ),
        (HEAD + '{"do":"examine"}{"do":"examine"}\n', 2, "", "malformed"),
        (HEAD + '{"do":"exam', 2, "", "truncated"),
    ],
)
def test_a_malformed_trace_says_where(text: str, line: int, field: str, says: str) -> None:
    with pytest.raises(BadTrace, match=re.escape(says)) as caught:
        codec.loads(text)
    assert (caught.value.line, caught.value.field) == (line, field)
    step = caught.value.step
    assert step == (0 if '"do"' in text else None)
    assert str(caught.value).startswith("step 0, line" if step == 0 else ("line", "trace"))


def test_a_step_knows_its_line() -> None:
    plain = codec.loads(HEAD + '{"do":"examine"}\n{"do":"examine"}\n')
    assert [plain.line(0), plain.line(1), plain.lines] == [2, 3, ()]
    spaced = codec.loads("\n" + HEAD + '\n{"do":"examine"}\n\n\n{"do":"examine"}\n\n')
    assert [spaced.line(0), spaced.line(1)] == [4, 7]
    assert codec.loads(codec.dumps(spaced)) == plain
    with pytest.raises(BadTrace, match=r"^step 1, line 4, field \$\.do: ") as caught:
        codec.loads(HEAD + '{"do":"examine"}\n\n{"do":"dance"}\n')
    assert (caught.value.step, caught.value.line) == (1, 4)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"step":0,"content":{"s":[["stamp","a",0,0,0]]}}', "$.content[s][0]"),
        ('{"step":0,"content":{"s":[["zero",1],["zero",-4]]}}', "$.content[s][1]"),
        ('{"step":0,"image":{"s":[["zero",99999999999999999999]]}}', "$.image[s][0]"),
        ('{"step":0,"image":{"s":[["stamp","seventeen letters",0,0,1]]}}', "$.image[s][0]"),
        ('{"step":0,"image":{"s":[["stamp","é€",0,0,1]]}}', "$.image[s][0]"),
        ('{"step":0,"image":{"s":[["stamp","a",4294967296,0,1]]}}', "$.image[s][0]"),
        ('{"step":0,"image":{"s":[["raw",1,"' + "A" * 4000 + '"]]}}', "$.image[s][0]"),
        ('{"step":0,"state":{"s":{"status":1}}}', "$.state[...].status"),
        ('{"step":0,"side":"left"}', "$.side"),
    ],
)
def test_malformed_observations_say_where(line: str, field: str) -> None:
    with pytest.raises(BadTrace) as caught:
        codec.loads_observations(OBS_HEAD + line + "\n")
    assert (caught.value.line, caught.value.field) == (2, field)


def test_a_trace_is_no_observations_file() -> None:
    with pytest.raises(BadTrace, match="this is a trace"):
        codec.loads_observations(HEAD)


def test_files_are_read_and_written_whole(tmp_path: Path) -> None:
    trace = Trace(
        Header(scenario="t", not_compared=(NotCompared(Layer.LOG, "no log here"),)),
        (Read(device="a", sector=0, sectors=1),),
    )
    codec.write(tmp_path / "new" / "t.trace", trace)
    assert codec.read(tmp_path / "new" / "t.trace") == trace
    seen = Observations(
        ObservationsHeader(scenario="t", side="twin"),
        (Observation(step=0, content={"a": (Stamped("a", 0, 0, 1),)}),),
    )
    codec.write_observations(tmp_path / "t.obs", seen)
    assert codec.read_observations(tmp_path / "t.obs") == seen
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["new", "t.obs", "t.trace"]


# -- the page -----------------------------------------------------------------------------------


def test_the_examples_are_read_and_are_what_would_be_written() -> None:
    [trace] = examples("trace")
    assert codec.dumps(codec.loads(trace)).decode() == trace
    [observations] = examples("observations")
    assert codec.dumps_observations(codec.loads_observations(observations)).decode() == observations
    [steps] = examples("steps")
    shown = codec.loads(HEAD + steps).steps
    assert len(shown) == len(steps.splitlines())
    assert all(len(step.data) % 512 == 0 for step in shown if isinstance(step, Poke))


def test_the_example_of_a_stamp_is_the_pattern() -> None:
    """The words that the page describes, computed a second time from its text."""
    word, wrap = 7, (1 << 64) - 1
    stamp = [0x50414E53 | 3 << 32, 5, int.from_bytes(b"base", "little"), 0]
    golden = 0x9E3779B97F4A7C15
    assert f"`{golden:#018X}`".replace("0X", "0x") in PAGE
    for part in stamp:
        word = ((word + golden) & wrap) ^ part
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & wrap
        word ^= word >> 31
    words = stamp + [(word + (i + 1) * golden) & wrap for i in range(60)]
    data = b"".join(w.to_bytes(8, "little") for w in words)
    assert data == pattern.fill(7, "base", 5, 1, 3).tobytes()


def test_the_example_of_a_store_can_be_had_back_from_its_runs() -> None:
    [text] = examples("observations")
    image = codec.loads_observations(text).observations[-1].image["cow"]
    data = pattern.decode(7, image)
    assert data[:16] == DiskHeader(chunk_sectors=8).pack()
    assert pattern.encode(7, data) == image


def rows() -> dict[str, str]:
    """Rows of the page's tables: what is named in the first cell → the whole row."""
    found: dict[str, str] = {}
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", line.split("|")[1]):
                found.setdefault(name, line)  # the steps come before the states
    return found


def test_every_step_and_field_is_on_the_page() -> None:
    table = rows()
    [steps] = examples("steps")
    shown = {msgspec.json.decode(line)["do"] for line in steps.splitlines()}
    verbs = set()
    for struct in msgspec.inspect.type_info(AnyStep).types:  # type: ignore[attr-defined]
        verb = struct.tag
        verbs.add(verb)
        assert verb in table, f"step {verb} is not described"
        named = re.findall(r"`([a-z_]+)`(?: = `?([^`,|]+)`?)?", table[verb].split("|")[2])
        described = {name: default.strip().strip('"') for name, default in named}
        assert list(described) == [f.encode_name for f in struct.fields], verb
        for field in struct.fields:
            wanted = "" if field.required else str(field.default)
            if isinstance(field.default, bool):
                wanted = wanted.lower()
            assert described[field.encode_name] == wanted, f"{verb}.{field.name}"
    assert shown == verbs, "the examples show every step, and no other"


@pytest.mark.parametrize("struct", [Header, ObservationsHeader, Observation, DeviceState, UEvent])
def test_every_field_of_the_other_records_is_on_the_page(struct: type) -> None:
    for field in msgspec.structs.fields(struct):
        assert f"`{field.encode_name}`" in PAGE, f"{struct.__name__}.{field.name}"


def test_every_layer_and_run_is_on_the_page() -> None:
    for layer in Layer:
        assert f"`{layer}`" in PAGE
    for tag in ("stamp", "zero", "raw", "error"):
        assert f'`["{tag}"' in PAGE


def test_large_devices_are_examined_at_both_ends():
    whole, end = rules.EXAMINE_SECTORS_MAX, rules.EXAMINE_END_SECTORS
    assert rules.examined(whole) == [(0, whole)]
    assert rules.examined(whole + 7) == [(0, end), (whole + 7 - end, end)]
    shown = [rules.examined_sector(index, whole + 7) for index in (0, end - 1, end, 2 * end - 1)]
    assert shown == [0, end - 1, whole + 7 - end, whole + 6]
    assert rules.examined_sector(end, whole) == end
    with pytest.raises(ValueError, match="beyond"):
        rules.examined_sector(2 * end, whole + 7)


def made(value: Any) -> Any:
    """An equal value that is another object."""
    return "".join(list(value)) if isinstance(value, str) else int(str(value))


@pytest.mark.parametrize(
    ("step", "written"),
    [
        (
            Disk(name="a", sectors=1, fill=made("zero"), block_size=made(512), linked=False),
            '{"do":"disk","name":"a","sectors":1}',
        ),
        (
            Fault(device="a", op="read", how=made("error"), sectors=None, nth=1),
            '{"do":"fault","device":"a","op":"read"}',
        ),
        (
            Parallel(ios=(Write(device="a", sector=1, sectors=1, fill=made("stamp")),), resume=()),
            '{"do":"parallel","ios":[{"do":"write","device":"a","sector":1,"sectors":1}]}',
        ),
        (
            Write(device="a", sector=1, sectors=1, fill=made("zero"), generation=0),
            '{"do":"write","device":"a","sector":1,"sectors":1,"generation":0,"fill":"zero"}',
        ),
    ],
)
def test_a_default_that_is_given_is_left_out(step: AnyStep, written: str) -> None:
    assert encode(step).decode() == written
    long = '{"dmsnap-trace":1,"scenario":"s"}\n' + json.dumps(
        {"do": type(step).__name__.lower()}
        | msgspec.to_builtins(step)
        | {name: getattr(step, name) for name in step.__struct_fields__ if name != "ios"}
    )
    assert codec.dumps(codec.loads(long)).decode().splitlines()[1:] == [written]


LOAD = '{"do":"load","name":"a","table":[{"start":0,"length":1,"type":"%s","args":"%s"}]}'


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ('{"do":"create","name":"a b"}', "of 1 to 16 letters, digits and _.+-"),
        (LOAD % ("a b", ""), "of 1 to 15 letters, digits and _.+-"),
        (LOAD % ("a", "#"), "of printable ASCII without #"),
        ('{"do":"message","name":"a","text":"\\n"}', "of printable ASCII"),
        ('{"do":"parameter","name":"1","value":"x"}', "that is a C identifier"),
        ('{"do":"parameter","name":"a","value":"\\u0001"}', "without control characters"),
    ],
)
def test_what_a_field_demands_is_said_in_words(step: str, words: str) -> None:
    with pytest.raises(BadTrace, match=re.escape(words)) as caught:
        codec.loads(HEAD + step)
    assert "regex" not in str(caught.value)
