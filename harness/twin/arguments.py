"""The arguments of a table line: words, numbers, and a constructor's refusals."""

from harness.twin.profile import SATURATES, Profile


class CtrError(Exception):
    """A constructor refused: ``ti->error`` and the errno it returned."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


def parse_unsigned(text: str, bits: int) -> int | None:
    """A decimal number below ``2**bits``, with or without a plus sign, or None (``kstrtouint``)."""
    digits = text.removeprefix("+")
    if not digits.isascii() or not digits.isdigit():
        return None
    number = int(digits)
    return number if number < 1 << bits else None


def scan_unsigned(text: str, bits: int, profile: Profile) -> int | None:
    """A decimal number without a sign, or None (kernel: ``sscanf`` with ``%u%c``, ``%llu%c``).

    Bits above 64 are dropped; in some kernels, a number that has such bits becomes the greatest
    one.
    """
    if not text.isascii() or not text.isdigit():
        return None
    number = int(text)
    if profile.number_overflow == SATURATES:
        number = min(number, (1 << 64) - 1)
    return number & (1 << bits) - 1


def split_args(text: str) -> list[str]:
    """Words of a table line; a backslash quotes the next character (``dm_split_args``)."""
    words: list[str] = []
    word: list[str] | None = None
    characters = iter(text)
    for character in characters:
        if character == "\\":
            character = next(characters, "\\")  # noqa: PLW2901 -- the one it protects
        elif character.isspace():
            if word is not None:
                words.append("".join(word))
                word = None
            continue
        word = word or []
        word.append(character)
    if word is not None:
        words.append("".join(word))
    return words
