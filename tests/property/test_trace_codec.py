"""The trace codec: every step survives, and no text can do more harm than a `BadTrace`."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import BadTrace
from harness.trace import files as codec
from harness.trace.bounds import excess
from harness.trace.files import Header, Layer, NotCompared, Observations, ObservationsHeader, Trace
from harness.trace.observations import Observation, Raw, Stamped
from harness.trace.steps import AnyStep


def strategy(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Values of any type that steps and observations are made of; a new step needs nothing."""
    info = msgspec.inspect
    match kind:
        case info.Metadata(type=inner):
            return strategy(inner)
        case info.IntType(ge=low, le=high):
            return st.integers(
                low if low is not None else 0, high if high is not None else (1 << 63) - 1
            )
        case info.StrType(pattern=pattern, min_length=shortest, max_length=longest):
            if pattern is None:
                return st.text(min_size=shortest or 0, max_size=12)
            # Surrogates match, and cannot be written.
            return st.from_regex(pattern, alphabet=st.characters(codec="utf-8")).filter(
                lambda text: (shortest or 0) <= len(text) <= (longest or len(text))
            )
        case info.BoolType():
            return st.booleans()
        case info.BytesType():
            return st.binary(max_size=64)
        case info.NoneType():
            return st.none()
        case info.LiteralType(values=values):
            return st.sampled_from(sorted(values, key=repr))
        case info.EnumType(cls=cls):
            return st.sampled_from(cls)
        case info.VarTupleType(item_type=item, min_length=fewest):
            return st.lists(strategy(item), min_size=fewest or 0, max_size=4).map(tuple)
        case info.DictType(key_type=key, value_type=value):
            return st.dictionaries(strategy(key), strategy(value), max_size=3)
        case info.UnionType(types=types):
            return st.one_of([strategy(t) for t in types])
        case info.StructType(cls=cls, fields=fields):
            if cls is Raw:
                return st.integers(1, 4).flatmap(
                    lambda count: st.builds(Raw, st.just(count), st.binary(max_size=64))
                )
            return st.builds(cls, **{f.name: strategy(f.type) for f in fields})
    raise AssertionError(f"no strategy for {kind}")


# Numbers of runs are plain integers; those that no device can have are refused on purpose.
COUNT = st.integers(1, 1 << 40)
RUNS = st.lists(
    st.one_of(
        st.builds(
            Stamped,
            st.text(st.characters(max_codepoint=255), max_size=16),
            st.integers(0, 0xFFFFFFFF),
            st.integers(0, 1 << 54),
            COUNT,
        ),
    ),
    max_size=3,
).map(tuple)
STEPS = strategy(msgspec.inspect.type_info(AnyStep))
HEADERS = strategy(msgspec.inspect.type_info(Header)).map(
    lambda header: msgspec.structs.replace(header, schema=codec.TRACE_VERSION)
)
TRACES = st.builds(Trace, HEADERS, st.lists(STEPS, max_size=8).map(tuple))
OBSERVATIONS = st.builds(
    Observations,
    strategy(msgspec.inspect.type_info(ObservationsHeader)).map(
        lambda header: msgspec.structs.replace(header, schema=codec.OBSERVATIONS_VERSION)
    ),
    st.lists(
        strategy(msgspec.inspect.type_info(Observation)).flatmap(
            lambda o: st.builds(
                lambda c, i: msgspec.structs.replace(o, content=c, image=i),
                st.dictionaries(st.text(max_size=4), RUNS, max_size=2),
                st.dictionaries(st.text(max_size=4), RUNS, max_size=2),
            )
        ),
        max_size=4,
    ).map(tuple),
)


@given(TRACES)
def test_a_trace_survives_text(trace: Trace) -> None:
    text = codec.dumps(trace)
    if excess(trace.steps):
        with pytest.raises(BadTrace):
            codec.loads(text)
        return
    assert codec.loads(text) == trace
    assert codec.loads(text.decode()) == trace
    assert codec.dumps(codec.loads(text)) == text
    assert len(text.splitlines()) >= 1 + len(trace.steps)


@given(OBSERVATIONS)
def test_observations_survive_text(observations: Observations) -> None:
    text = codec.dumps_observations(observations)
    assert codec.loads_observations(text) == observations


def edits(text: bytes) -> st.SearchStrategy[bytes]:
    """``text`` with a few places cut out, replaced or repeated."""
    place = st.integers(0, len(text))
    piece = st.one_of(
        st.binary(max_size=4),
        st.sampled_from(
            [
                b'"',
                b"{",
                b"}",
                b"[",
                b"]",
                b",",
                b":",
                b"\n",
                b"null",
                b"-1",
                b"1e9",
                b'"x"',
                b"9" * 30,
                b"9" * 5000,
                b"[" * 3000,
                b"\xff",
                b"\\ud800",
            ]
        ),
    )

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        edited = text
        for at, length, new in changes:
            edited = edited[:at] + new + edited[at + length :]
        return edited

    return st.lists(st.tuples(place, st.integers(0, 12), piece), min_size=1, max_size=3).map(apply)


SAMPLE = codec.dumps(
    Trace(
        Header(scenario="sample", seed=3, not_compared=(NotCompared(Layer.LOG, "why not"),)),
        (
            msgspec.json.decode(
                b'{"do":"disk","name":"a","sectors":8,"fill":"stamp"}', type=AnyStep
            ),
            msgspec.json.decode(
                b'{"do":"load","name":"s","table":[{"start":0,"length":8,"type":"x"}]}',
                type=AnyStep,
            ),
            msgspec.json.decode(
                b'{"do":"poke","device":"a","sector":0,"data":"AAAA"}', type=AnyStep
            ),
        ),
    )
)


@settings(max_examples=300)
@given(edits(SAMPLE))
@example(b"")
@example(b"\n\n")
@example(b"[" * 100_000)
@example(SAMPLE.replace(b"sample", b"\xff\xfe"))
@example(SAMPLE + b'{"do":' * 50_000)
def test_any_mutated_text_is_a_trace_or_a_bad_trace(text: bytes) -> None:
    try:
        trace = codec.loads(text)
    except BadTrace as caught:
        fault, trace = caught, None
    if trace is None:
        assert str(fault)
        assert 0 <= fault.line <= text.count(b"\n") + 1
    else:
        again = codec.loads(codec.dumps(trace))
        # Lines are those of the file: empty ones are not written again.
        assert (again.header, again.steps) == (trace.header, trace.steps)


@given(st.binary(max_size=200))
def test_any_bytes_are_observations_or_a_bad_trace(text: bytes) -> None:
    for whole in (text, b'{"dmsnap-observations":1,"scenario":"x","side":"twin"}\n' + text):
        with suppress(BadTrace):
            codec.loads_observations(whole)


@given(st.text(st.characters(), max_size=20))
def test_text_with_surrogates_is_no_crash(text: str) -> None:
    for whole in (text + "\ud800", '{"dmsnap-trace":1,"scenario":"' + text + '"}'):
        with suppress(BadTrace):
            codec.loads(whole)
