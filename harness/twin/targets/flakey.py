"""The flakey target: works for some seconds, fails for some, and so on (kernel: dm-flakey.c).

``flakey <device> <offset> <up> <down> [<count> <feature>…]``.  The twin's time is not that of a
scenario, whose duration varies; so the model has one state for a device's whole life: down if it is
never up, up otherwise.  A scenario chooses intervals of 0, or longer than itself.

While it is down, reads and writes fail, or what the features say: ``error_reads``, ``drop_writes``,
``error_writes``, ``corrupt_bio_byte <which> <r|w> <value> <flags>``.

Deliberately left out: ``random_read_corrupt`` and ``random_write_corrupt``, which are random.
"""

import errno
from typing import Final

from harness.twin.arguments import CtrError, scan_unsigned
from harness.twin.bio import READ, Bio, BlockDevice, Op
from harness.twin.profile import Profile
from harness.twin.target import Target

_WORDS_OF_CORRUPT: Final = 4
_FEATURES_MAX: Final = 11
_U32: Final = (1 << 32) - 1


class Flakey(Target):
    """A device that is down for good, or up for good."""

    type_name = "flakey"

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``flakey_ctr``."""
        if len(argv) < 4:
            raise CtrError("Invalid argument count", errno.EINVAL)
        profile = self.table.world.profile
        self._knows_error_reads = profile.flakey_error_reads
        offset = scan_unsigned(argv[1], 64, profile)
        if offset is None:
            raise CtrError("Invalid device sector", errno.EINVAL)
        self._offset = offset
        self._up = _number(argv[2], _U32, "Invalid up interval", profile)
        self._down = _number(argv[3], _U32, profile.flakey_bad_down, profile)
        if not self._up + self._down & _U32:
            raise CtrError("Total (up + down) interval is zero", errno.EINVAL)
        if self._up + self._down > _U32:
            raise CtrError("Interval overflow", errno.EINVAL)
        self._features: set[str] = set()
        self._corrupt: tuple[int, str, int, int] | None = None
        self._parse_features(argv[4:])
        try:
            self._opened = self.table.get_device(argv[0])
        except OSError as fault:
            raise CtrError("Device lookup failed", fault.errno or errno.EIO) from None

    def _parse_features(self, words: list[str]) -> None:
        """Kernel: ``parse_features``."""
        profile = self.table.world.profile
        count = 0
        if words:
            count = _number(words[0], _FEATURES_MAX, "Invalid number of feature args", profile)
            if count > len(words) - 1:
                raise CtrError("Invalid number of feature args", errno.EINVAL)
        rest = words[1:]
        while count > 0:
            word = rest.pop(0).lower()
            count -= 1
            known = ("error_reads", "drop_writes", "error_writes")
            if word in known[0 if self._knows_error_reads else 1 :]:
                self._add(word)
            elif word == "corrupt_bio_byte":
                self._parse_corrupt(rest, count)
                count -= _WORDS_OF_CORRUPT
            else:
                raise CtrError("Unrecognised flakey feature requested", errno.EINVAL)
        if self._corrupt and self._corrupt[1] == "w":
            for word, refusal in (
                ("drop_writes", profile.flakey_drop_conflict),
                ("error_writes", profile.flakey_error_conflict),
            ):
                if word in self._features:
                    raise CtrError(refusal, errno.EINVAL)
        if self._knows_error_reads and not self._features and not self._corrupt:
            self._features = {"error_reads", "error_writes"}

    def _add(self, word: str) -> None:
        if word in self._features:
            raise CtrError(f"Feature {word} duplicated", errno.EINVAL)
        other = {"drop_writes": "error_writes", "error_writes": "drop_writes"}.get(word)
        if other in self._features:
            raise CtrError(f"Feature {word} conflicts with feature {other}", errno.EINVAL)
        self._features.add(word)

    def _parse_corrupt(self, words: list[str], count: int) -> None:
        profile = self.table.world.profile
        if not count or (count < _WORDS_OF_CORRUPT and profile.flakey_corrupt_counted):
            raise CtrError(profile.flakey_short_corrupt, errno.EINVAL)
        # A missing word is treated like an unreadable one.
        which, way, value, flags, *_ = (*words[:_WORDS_OF_CORRUPT], "", "", "", "")
        byte = _number(which, _U32, "Invalid corrupt bio byte", profile)
        if not byte:
            raise CtrError("Invalid corrupt bio byte", errno.EINVAL)
        if way.lower() not in ("r", "w"):
            raise CtrError("Invalid corrupt bio direction (r or w)", errno.EINVAL)
        put = _number(value, 255, "Invalid corrupt value to write into bio byte (0-255)", profile)
        mask = _number(flags, _U32, "Invalid corrupt bio flags mask", profile)
        self._corrupt = byte, way.lower(), put, mask
        del words[:_WORDS_OF_CORRUPT]

    def destroy(self) -> None:
        """Kernel: ``flakey_dtr``."""
        self.table.put_device(self._opened)

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``flakey_map``."""
        bio.sector = self._offset + bio.sector - self.start
        if self._up:
            return self._opened.device
        if bio.op is READ:
            return self._map_read(bio)
        if "drop_writes" in self._features:
            bio.end()
            return None
        if self._write_fails():
            bio.end(errno.EIO)
            return None
        if self._corrupt and self._corrupt[1] == "w" and bio.op is Op.WRITE:
            assert bio.data is not None
            bio.data = memoryview(bytearray(bio.data))
            self._spoil(bio.data)
        return self._opened.device

    def _write_fails(self) -> bool:
        if self._knows_error_reads:
            return "error_writes" in self._features
        # Everything fails that no feature allows.
        return "error_writes" in self._features or self._corrupt is None

    def _map_read(self, bio: Bio) -> BlockDevice | None:
        fails = (
            "error_reads" in self._features
            if self._knows_error_reads
            else not self._features and not self._corrupt
        )
        if fails:
            bio.end(errno.EIO)
            return None
        if self._corrupt and self._corrupt[1] == "r":
            bio.chunk = 0  # so that `end_io` is called
        return self._opened.device

    def end_io(self, bio: Bio) -> None:
        """Kernel: ``flakey_end_io``."""
        if not bio.error:
            assert bio.data is not None
            self._spoil(bio.data)

    def _spoil(self, data: memoryview) -> None:
        """Overwrite one byte, if the bio is that long (kernel: ``corrupt_bio_data``)."""
        assert self._corrupt is not None
        byte, _, value, flags = self._corrupt
        if not flags and byte <= len(data):
            data[byte - 1] = value

    def map_flush(self, bio: Bio, number: int) -> BlockDevice | None:
        """A flush is treated like any other write."""
        del number
        return self.map(bio)

    def table_line(self) -> str:
        """Kernel: ``flakey_status``, STATUSTYPE_TABLE."""
        words: list[str] = [
            word
            for word in ("error_reads", "drop_writes", "error_writes")
            if word in self._features
        ]
        if self._corrupt:
            words += ["corrupt_bio_byte", *map(str, self._corrupt)]
        line = f"{{{self._opened.device.name}}} {self._offset} {self._up} {self._down} {len(words)}"
        blank = " " if self.table.world.profile.flakey_table_blank else ""
        return " ".join([line, *words]) + blank

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """The range that is mapped."""
        return [(self._opened.device, self._offset, self.sectors)]


def _number(word: str, most: int, refusal: str, profile: Profile) -> int:
    """An argument (kernel: ``dm_read_arg``).

    Raises:
        CtrError: it is not a number, or too large.
    """
    number = scan_unsigned(word, 32, profile)
    if number is None or number > most:
        raise CtrError(refusal, errno.EINVAL)
    return number
