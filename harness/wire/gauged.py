"""What a guest that measures leaves beside its journal: copy jobs of kcopyd, and their memory.

`harness.kernel.gauge` writes it.
"""

from typing import Final

from msgspec import Struct

NAME: Final = "gauge.json"
"""File in the results directory: scenario → `Gauged`."""


class Slab(Struct, frozen=True):
    """One reading of a slab cache.

    Attributes:
        jobs: objects in use.
        job_bytes: size of one.
        slab_bytes: memory of all slabs of the cache, used or not.
    """

    jobs: int
    job_bytes: int
    slab_bytes: int


class Gauged(Struct, frozen=True):
    """What a scenario's buffered write did (the last, if there are several): before, at the peak.

    Attributes:
        elapsed_us: time that the write took, up to and with its fsync.
        readings: how often the cache was looked at.
    """

    before: Slab
    peak: Slab
    elapsed_us: int
    readings: int
