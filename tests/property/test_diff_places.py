"""The diff against plain bytes: same verdict, same first byte, same number of sectors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.place import Geometry, locate
from harness.trace import pattern

SECTOR = st.one_of(
    st.just(bytes(512)),
    st.builds(
        lambda s, g: pattern.fill(9, "d", s, 1, g).tobytes(), st.integers(0, 3), st.integers(0, 1)
    ),
    st.builds(lambda at: bytes(at) + b"x" + bytes(511 - at), st.integers(0, 511)),
)
SECTORS = st.lists(SECTOR, min_size=1, max_size=10)


@given(SECTORS, SECTORS)
def test_the_first_difference_is_that_of_the_bytes(one: list[bytes], other: list[bytes]) -> None:
    other = (other * 10)[: len(one)]
    left, right = b"".join(one), b"".join(other)
    place = locate(9, Geometry(), "d", pattern.encode(9, left), pattern.encode(9, right))
    wrong = np.flatnonzero(np.frombuffer(left, np.uint8) != np.frombuffer(right, np.uint8))
    if not len(wrong):
        assert place is None
        return
    assert place is not None
    assert place.byte == wrong[0]
    assert place.differ == len(set((wrong // 512).tolist()))
    at = place.hex_at
    assert bytes.fromhex(place.left_hex) == left[at : at + 16]
    assert bytes.fromhex(place.right_hex) == right[at : at + 16]
