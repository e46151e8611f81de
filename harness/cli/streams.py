"""Standard streams and signals: no reader, terminal or signal may cost a report.

A reader that stops early (``| head``), a full disk behind ``>`` or a terminal that is gone must
not end a run whose reports are files.  What cannot be written is dropped; the user is told at the
end, unless the reader stopped by itself.  A character that the terminal cannot encode is escaped.

SIGTERM and SIGHUP are treated as Ctrl-C: cleanup is in ``finally`` blocks, which a process that
just dies never reaches.
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
"""Signals that end a command cleanly."""


class _Patient(io.FileIO):
    """A descriptor to write to; a write never fails.

    Attributes:
        fault: why something was dropped; None if nothing was.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self.fault: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write what can be written; report that all of it was."""
        view = memoryview(data).cast("B")
        while self.fault is None:
            try:
                return os.write(self.fileno(), view)
            except BlockingIOError:  # another process made it non-blocking; lose no line
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
    """Standard output and error that take everything; a loss sets the exit status.

    Streams that replace the process's own (as in tests) are left alone.
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        yield
        return
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Closed by our parent; the next file we open must not take its number.
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
                f"dmsnap: some output could not be written: {lost.strerror}; free space "
                "there, or write elsewhere",
                file=sys.stderr,
            )
            _flush()
            raise SystemExit(EXIT_CANNOT) from None
        raise
    finally:
        _flush()
        # Python flushes its own streams once more at exit; they are empty.
        sys.stdout, sys.stderr = old


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()


@contextmanager
def interrupts() -> Iterator[None]:
    """Inside, the first of `SIGNALS` raises KeyboardInterrupt; later ones are ignored.

    Cleanup then takes seconds, and must finish.  A signal that was ignored from the start
    (``nohup``) stays ignored.
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
    except ValueError:  # not in the main thread, which alone handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
