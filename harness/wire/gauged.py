"""What a measuring guest leaves next to its journal: kcopyd's copy jobs and their memory.

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
    """Gauge readings around a scenario's buffered write (the last one): before, and at the peak.

    Attributes:
        elapsed_us: time that the write took, including its fsync.
        readings: how often the cache was read.
    """

    before: Slab
    peak: Slab
    elapsed_us: int
    readings: int
