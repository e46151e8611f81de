r"""The gate: untrusted text reaches a terminal, or the log of a CI job, as plain text.

Names, reasons, console lines and errors come from traces, guests and mirrors.  An escape sequence
in them would move the cursor or change a title, a bidirectional control would change what is read,
and a line such as ``::error::`` or ``##vso[…]`` is a command to the machine that keeps the log.
So all output passes `printable`:

- text written to standard output or error, in `Gate`, whatever writes it;
- what rich lays out, in `guarded`: its own escape sequences are outside the text, and pass;
- report files (JUnit, KTAP), which will be printed somewhere.

What does not pass is escaped, as ``\x1b``.  Nothing is dropped; the evidence stays.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO, cast

from rich.console import Console
from rich.segment import Segment

_ORDER: Final = re.compile(r"^([^\S\n]*):(?=:)|#(?=#)", re.MULTILINE)
"""How commands to CI systems begin: ``::`` at the start of a line, ``##vso[``, ``##[``,
``##teamcity[`` anywhere in a line."""


def printable(text: str) -> str:
    r"""``text`` made readable: invisible characters except newlines are escaped, as ``\x1b``.

    Those are all that Unicode calls control, format (bidirectional marks, joiners, tags), private,
    surrogate, unassigned or a separator; and the first character of a command to a CI system.
    """
    if not text.isprintable():
        text = "".join(one if one.isprintable() or one == "\n" else _escaped(one) for one in text)
    return _ORDER.sub(lambda found: f"{found[1] or ''}{_escaped(found[0][-1])}", text)


_JSON_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([bfrt])|[^u])")
_SHORT_ESCAPE: Final = {"b": "\b", "f": "\f", "r": "\r", "t": "\t"}


def printable_json(text: str) -> str:
    r"""A JSON text whose strings are `printable`, once they are read, as far as characters go.

    What cannot be seen, spelt out or as ``\u001b``, is written as ``\\x1b``; newlines stay.
    """
    if "\\" in text:
        text = _JSON_ESCAPE.sub(_printable_escape, text)
    if not text.isprintable():
        text = "".join(one if one.isprintable() else "\\" + _escaped(one) for one in text)
    return text


def _printable_escape(found: re.Match[str]) -> str:
    one = chr(int(found[1], 16)) if found[1] else _SHORT_ESCAPE.get(found[2] or "", "\n")
    return found[0] if one == "\n" or one.isprintable() else "\\" + _escaped(one)


def _escaped(one: str) -> str:
    return f"\\x{ord(one):02x}"


class _Stream:
    """Text that comes in pieces; a command may be split between them."""

    def __init__(self) -> None:
        self._line = ""

    def clean(self, text: str) -> str:
        """The next piece, as `printable`; what precedes it on its line is known."""
        if not text:
            return ""
        line, self._line = self._line, self._after(text)
        first = ""
        if text[0] == line[-1:] and (text[0] == "#" or line.strip() == ":" == text[0]):
            first = _escaped(text[0])
        elif text[0] == ":" and line.strip():
            first = ":"  # within a line it does not begin a command
        return first + printable(text[bool(first) :])

    def _after(self, text: str) -> str:
        """What matters of the line after ``text``: how it began, and how it ends."""
        _, newline, last = text.rpartition("\n")
        line = last if newline else self._line + last
        begun = line.lstrip()
        return begun if len(begun) < 2 else begun[0] + begun[-1]


class Gate:
    """A text stream in front of another, which passes only what is `printable`.

    It takes all of Unicode; what the stream below cannot encode is escaped there.
    """

    encoding = "utf-8"

    def __init__(self, below: TextIO) -> None:
        self.rich_proxied_file = below
        """Where a rich console writes; see `guarded`."""
        self._stream = _Stream()

    def write(self, text: str) -> int:
        """Write ``text`` as `printable`; returns its length.

        Raises:
            TypeError: it is not text; click finds out this way what a stream takes.
        """
        if not isinstance(text, str):
            raise TypeError("a text stream takes text")
        below, clean = self.rich_proxied_file, self._stream.clean(text)
        try:
            below.write(clean)
        except UnicodeEncodeError:
            encoding = below.encoding or "ascii"
            below.write(clean.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def guarded(console: Console) -> Console:
    """``console`` with the gate where it renders its layout as text."""
    render, stream = console._render_buffer, _Stream()

    def clean(buffer: Iterable[Segment]) -> str:
        return render(
            [
                each if each.control else each._replace(text=stream.clean(each.text))
                for each in buffer
            ]
        )

    console._render_buffer = clean  # type: ignore[method-assign]
    return console


@contextmanager
def gated() -> Iterator[None]:
    """Standard output and error behind the gate."""
    old = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (None if each is None else cast("TextIO", Gate(each)) for each in old)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = old
