"""A program that behaves like a guest whose root wants to harm the host: run by test_strangers.py.

Its job says what it leaves in the place of its journal.
"""

import json
import os
import signal
import socket
import sys
import zlib
from base64 import b64encode
from pathlib import Path

results = Path(sys.argv[1])
[attack] = json.loads((results / "job.json").read_text())["scenarios"]
journal = results / "journal.jsonl"
fresh = results / "fresh"


def lines(*records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


READY = {"record": "ready", "release": "1.2.3-fake", "version": "#1"}
START = (
    READY,
    {"record": "begin", "scenario": attack, "seed": 1},
    {"record": "started", "step": 0},
)


def observed(*runs):
    return {"record": "observed", "observation": {"step": 0, "content": {"disk": runs}}}


def raw(count, size):
    """A raw run of ``count`` sectors that inflates to ``size`` bytes."""
    deflate = zlib.compressobj(9)
    first, block = (
        deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    packed = first + block * ((size >> 20) - 1) if size else b""
    return ["raw", count, b64encode(packed).decode()]


if attack == "late-fifo":
    # While the host follows it.
    journal.write_bytes(lines(*START))
match attack:
    case "fifo" | "late-fifo":
        os.mkfifo(fresh)
    case "link":
        fresh.symlink_to(results.parent.parent / "secret")
    case "zero":
        fresh.symlink_to("/dev/zero")
    case "directory":
        fresh.mkdir()
    case "socket":
        socket.socket(socket.AF_UNIX).bind(str(fresh))
    case "long":
        with fresh.open("wb") as file:
            file.write(lines(*START))
            file.truncate(20 << 30)
    case "line":
        with fresh.open("wb") as file:
            file.write(lines(*START) + b'"')
            file.truncate(200 << 20)
    case "bomb":
        fresh.write_bytes(lines(*START, observed(raw(1, 4 << 30))))
    case "bombs":
        fresh.write_bytes(lines(*START, observed(raw(1 << 16, 4 << 30))))
    case "many":
        fresh.write_bytes(
            lines(
                *START,
                observed(
                    *[["raw", 1 << 15, b64encode(zlib.compress(bytes(1 << 24))).decode()]] * 64
                ),
            )
        )
    case "short":
        fresh.write_bytes(lines(*START, observed(raw(8, 0))))
    case "counts":
        fresh.write_bytes(lines(*START, observed(["raw", 1 << 60, ""])))
fresh.rename(journal)
signal.pause()
