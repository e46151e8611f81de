"""LVM's log comes from a guest: whatever stands in it, the reader's errors are its own."""

import re

from hypothesis import given
from hypothesis import strategies as st

from harness.lvm.log import LogReader, LvmLogError
from tests.unit.test_lvm import CREATE, RENAME

LINES = (CREATE + RENAME).splitlines()
ODD = st.one_of(
    st.sampled_from(["", "()", "(254:9)", "9" * 5000, "\x1b[2J", "[", "dm rename [ x ]", "\0"]),
    st.text(max_size=20),
)


@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), st.integers(0, 20), ODD), min_size=1))
def test_an_odd_log_is_read_or_refused_with_its_line(
    changes: list[tuple[int, int, str]],
) -> None:
    lines = list(LINES)
    for at, word, odd in changes:
        words = lines[at].split(" ")
        words[word % len(words)] = odd
        lines[at] = " ".join(words)
    said = ""
    try:
        LogReader().read("\n".join(lines))
    except LvmLogError as fault:
        said = str(fault)
    assert not said or re.match("line [0-9]+ of LVM's log", said)
