"""The dust target: blocks that cannot be read until they are written (kernel: dm-dust.c).

``dust <device> <offset> <block size in bytes>``.  Messages make blocks bad and good again; while
failing is enabled, a read of a bad block gets EIO, and a write makes it good, after failing as
often as requested.  Bios are cut at blocks.
"""

import errno
from typing import Final

from harness.twin.arguments import CtrError, parse_unsigned, scan_unsigned
from harness.twin.bio import READ, Bio, BlockDevice
from harness.twin.target import Target
from harness.units import SECTOR_BYTES, SECTOR_SHIFT

_BLOCK_SECTORS_MAX: Final = 2097152
_WRITE_FAILURES_MAX: Final = 255


class Dust(Target):
    """A device with bad blocks."""

    type_name = "dust"
    takes_messages = True

    def construct(self, argv: list[str]) -> None:
        """Kernel: ``dust_ctr``."""
        if len(argv) != 3:
            raise CtrError("Invalid argument count", errno.EINVAL)
        block_bytes = parse_unsigned(argv[2], 32)
        if not block_bytes:
            raise CtrError("Invalid block size parameter", errno.EINVAL)
        if block_bytes < SECTOR_BYTES:
            raise CtrError("Block size must be at least 512", errno.EINVAL)
        if block_bytes & block_bytes - 1:
            raise CtrError("Block size must be a power of 2", errno.EINVAL)
        if block_bytes >> SECTOR_SHIFT > min(self.sectors, _BLOCK_SECTORS_MAX):
            raise CtrError("Block size is too large", errno.EINVAL)
        offset = scan_unsigned(argv[1], 64, self.table.world.profile)
        if offset is None:
            raise CtrError("Invalid device offset sector", errno.EINVAL)
        try:
            self._opened = self.table.get_device(argv[0])
        except OSError:
            raise CtrError("Device lookup failed", errno.EINVAL) from None
        self._offset = offset
        self._block_sectors = self.max_io_sectors = block_bytes >> SECTOR_SHIFT
        self._bad: dict[int, int] = {}  # block → how many writes to it fail
        self._fails = False
        self._quiet = False

    def destroy(self) -> None:
        """Kernel: ``dust_dtr``."""
        self.table.put_device(self._opened)

    def map(self, bio: Bio) -> BlockDevice | None:
        """Kernel: ``dust_map``."""
        bio.sector = self._offset + bio.sector - self.start
        block = bio.sector // self._block_sectors
        if not self._fails or block not in self._bad:
            return self._opened.device
        if bio.op is READ:
            bio.end(errno.EIO)
            return None
        if self._bad[block]:
            self._bad[block] -= 1
            bio.end(errno.EIO)
            return None
        del self._bad[block]
        # The kernel divides a second time before it prints the number.
        self._info(f"block {block // self._block_sectors} removed from badblocklist by write")
        return self._opened.device

    def flush_device(self, number: int) -> BlockDevice:
        """To the device."""
        del number
        return self._opened.device

    # -- messages --

    def _say(self, text: str) -> None:
        self.table.world.log(f"dust: {text}")

    def _info(self, text: str) -> None:
        """Log, except in quiet mode."""
        if not self._quiet:
            self._say(text)

    def _refuse(self, text: str | None) -> OSError:
        if text is not None:
            self._say(text)
        return OSError(errno.EINVAL, text or "")

    def message(self, words: list[str]) -> str:
        """Kernel: ``dust_message``."""
        command = words[0].lower()
        match len(words):
            case 1:
                return self._command(command, words[0])
            case 2 | 3:
                return self._command_on_block(command, words)
        raise self._refuse(f"invalid number of arguments '{len(words)}'")

    def _command(self, command: str, word: str) -> str:
        match command:
            case "addbadblock" | "removebadblock" | "queryblock":
                raise self._refuse(f"{word} requires an additional argument")
            case "enable" | "disable":
                self._fails = command == "enable"
                self._say(
                    f"{'enabling' if self._fails else 'disabling'} read failures on bad sectors"
                )
            case "quiet":
                self._quiet = not self._quiet
            case "countbadblocks":
                return f"countbadblocks: {len(self._bad)} badblock(s) found"
            case "listbadblocks":
                return "\n".join(map(str, sorted(self._bad))) or "No blocks in badblocklist"
            case "clearbadblocks":
                found, self._bad = self._bad, {}
                return (
                    "dust_clear_badblocks: "
                    f"{'badblocks cleared' if found else 'no badblocks found'}"
                )
            case _:
                raise self._refuse(f"unrecognized message '{word}' received")
        return ""

    def _command_on_block(self, command: str, words: list[str]) -> str:
        profile = self.table.world.profile
        block = scan_unsigned(words[1], 64, profile)
        failures = scan_unsigned(words[2], 32, profile) if len(words) > 2 else 0
        if block is None or failures is None:
            raise self._refuse(None)
        if failures > _WRITE_FAILURES_MAX:
            raise self._refuse("selected write fail count out of range")
        if block > self._opened.device.sectors // self._block_sectors:
            raise self._refuse("selected block value out of range")
        if command == "addbadblock":
            if block in self._bad:
                raise self._refuse(
                    None
                    if self._quiet
                    else f"dust_add_block: block {block} already in badblocklist"
                )
            self._bad[block] = failures
            self._info(
                f"dust_add_block: badblock added at block {block} with write fail count {failures}"
            )
            return ""
        if len(words) == 2 and command == "removebadblock":
            if block not in self._bad:
                raise self._refuse(
                    None
                    if self._quiet
                    else f"dust_remove_block: block {block} not found in badblocklist"
                )
            del self._bad[block]
            self._info(f"dust_remove_block: badblock removed at block {block}")
            return ""
        if len(words) == 2 and command == "queryblock":
            return (
                f"dust_query_block: block {block} "
                f"{'' if block in self._bad else 'not '}found in badblocklist"
            )
        raise self._refuse(f"unrecognized message '{words[0]}' received")

    # -- what device-mapper says about it --

    def status(self) -> str:
        """Kernel: ``dust_status``, STATUSTYPE_INFO."""
        return (
            f"{{{self._opened.device.name}}} "
            f"{'fail_read_on_bad_block' if self._fails else 'bypass'} "
            f"{'quiet' if self._quiet else 'verbose'}"
        )

    def table_line(self) -> str:
        """Kernel: ``dust_status``, STATUSTYPE_TABLE."""
        return (
            f"{{{self._opened.device.name}}} {self._offset} {self._block_sectors << SECTOR_SHIFT}"
        )

    def devices(self) -> list[tuple[BlockDevice, int, int]]:
        """The range that is mapped."""
        return [(self._opened.device, self._offset, self.sectors)]
