"""Standard streams and signals, so that no reader, terminal or signal takes a report away.

A reader that has had enough (``| head``), a full disk behind ``>`` or a terminal that is gone must
not end a run whose reports are files: what cannot be written is dropped, and where it was not the
reader's own wish, said at the end.  A character that a terminal's encoding lacks is escaped.

SIGTERM and SIGHUP are Ctrl-C by another name: what has to be tidied up then is in ``finally``
blocks, which a process that just dies never reaches.
"""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn

from harness.cli.options import EXIT_CANNOT

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They end a command in good order."""


class _Patient(io.FileIO):
    """A descriptor to write to; it takes everything, whatever becomes of it.

    Attributes:
        fault: why something was dropped; None as long as nothing was.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self.fault: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write what can be written; says that it was all."""
        view = memoryview(data).cast("B")
        while self.fault is None:
            try:
                return os.write(self.fileno(), view)
            except BlockingIOError:  # somebody else has made it so; it must not cost a line
                select.select([], [self], [])
            except OSError as fault:
                self.fault = fault
        return len(view)


def _open(stream: io.TextIOBase, fd: int) -> tuple[io.TextIOWrapper, _Patient]:
    raw = _Patient(fd)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    ), raw


@contextmanager
def patient() -> Iterator[None]:
    """Standard output and error that take everything; what was lost decides the exit status.

    Streams that somebody has put in the place of the process's own are left alone.
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        yield
        return
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Closed by who started us: what we open next must not be taken for it.
            os.open(os.devnull, os.O_RDWR)
    old = sys.stdout, sys.stderr
    raws: list[_Patient] = []
    if sys.stdout is not None:
        sys.stdout, raw = _open(sys.stdout, 1)
        raws.append(raw)
    if sys.stderr is not None:
        sys.stderr, raw = _open(sys.stderr, 2)
        raws.append(raw)
    try:
        yield
    except SystemExit as end:
        _flush()
        lost = next(
            (raw.fault for raw in raws if raw.fault is not None and raw.fault.errno != errno.EPIPE),
            None,
        )
        if lost is not None and not end.code:
            print(
                f"dmsnap: not all that was said could be written: {lost.strerror}; free space "
                "there, or write elsewhere",
                file=sys.stderr,
            )
            _flush()
            raise SystemExit(EXIT_CANNOT) from None
        raise
    finally:
        _flush()
        # Python flushes what it knows as its own once more; nothing is left in there.
        sys.stdout, sys.stderr = old


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()


@contextmanager
def interrupts() -> Iterator[None]:
    """While it lasts, the first of `SIGNALS` raises KeyboardInterrupt, and others are ignored.

    What is tidied up then takes seconds, and has to be done.  A signal that was ignored from the
    start (``nohup``) stays so.
    """
    before: dict[signal.Signals, Any] = {}

    def heard(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, heard)
    except ValueError:  # not in the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
