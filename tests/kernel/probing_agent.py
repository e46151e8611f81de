"""An agent that looks for a way out of its guest, as its root: run in a real one by test_cage.py.

What it could do of the host is the text of its one observation, as JSON.  Its job names what there
is of the host: ``victim``, a file that everybody of the host's user may write, and ``place``, the
directory of it.
"""

import ctypes
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from harness.trace.observations import Observation
from harness.trace.steps import encode
from harness.wire.journal import Begin, Done, End, JournalWriter, Observed, Ready, Started

MS_REMOUNT = 32
libc = ctypes.CDLL(None, use_errno=True)


def attempt(done, name, act):
    """Do it; what it returns is the proof that it could be done."""
    try:
        found = act()
    except (OSError, ValueError, subprocess.SubprocessError):
        return
    if found:
        done[name] = found


def mount(source, target, kind, flags=0, options=""):
    if libc.mount(
        source.encode(),
        str(target).encode(),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    ):
        raise OSError(ctypes.get_errno(), "mount")


def hostfs(path):
    """The host's directory ``path``, mounted in the guest."""
    target = Path("/dev/shm") / path.strip("/").replace("/", "-")
    target.mkdir(exist_ok=True)
    # The older way of mount(2), as vm/init has it.
    subprocess.run(
        ["mount", "-t", "hostfs", "none", target, "-o", path],
        check=True,
        timeout=20,
        capture_output=True,
    )
    return target


def touch(directory):
    path = directory / "dmsnap-was-here"
    path.write_text("x")
    path.unlink()
    return True


def overwrite(path):
    path.read_bytes()  # only what is there
    path.write_text("owned")
    return True


def device(directory):
    """A device node of the host's memory, kept for the host to look at."""
    path = directory / "device"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 1))
    return stat.S_ISCHR(path.lstat().st_mode)


def processes(proc):
    """Of the host's processes, more than those that a cage consists of."""
    return len([path for path in proc.iterdir() if path.name.isdigit()]) > 2


def secret(path):
    return len(path.read_bytes()) > 0


def probe(job, results):
    done: dict[str, object] = {}
    place = job["place"]
    if job["hostfs"]:
        libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REMOUNT), b"")
    else:
        subprocess.run(["mount", "-o", "remount,rw", "/"], check=False, capture_output=True)
    attempt(done, "shadow", lambda: secret(Path("/etc/shadow")))
    attempt(done, "victim", lambda: overwrite(Path(place) / "victim"))
    for name in (
        "/etc",
        "/usr",
        "/var/tmp",
        "/root",
        "/home",
        "/run",
        "/",
        place,
        str(Path(__file__).parent),
    ):
        attempt(done, f"touch {name}", lambda name=name: touch(Path(name)))
    attempt(done, "device in /", lambda: device(Path(place)))
    if job["hostfs"]:
        for name in ("/", "/etc", "/proc", "/sys", "/dev", "/tmp", "/run", "/root", place):
            try:
                there = hostfs(name)
            except (OSError, subprocess.SubprocessError):
                continue
            attempt(done, f"hostfs {name}", lambda there=there: touch(there))
            attempt(done, f"hostfs {name} shadow", lambda there=there: secret(there / "shadow"))
            attempt(done, f"hostfs {name} victim", lambda there=there: overwrite(there / "victim"))
            attempt(done, f"hostfs {name} device", lambda there=there: device(there))
            attempt(done, f"hostfs {name} processes", lambda there=there: processes(there))
            attempt(done, f"hostfs {name} uptime", lambda there=there: secret(there / "uptime"))
            attempt(
                done,
                f"hostfs {name} kernel",
                lambda there=there: (there / "kernel/uevent_seqnum").exists(),
            )
            attempt(
                done,
                f"hostfs {name} devices",
                lambda there=there: any(
                    (there / each).exists() for each in ("kmsg", "mem", "tty1", "ptmx")
                ),
            )
    attempt(done, "device in results", lambda: device(results))
    return done


def main(results):
    job = json.loads((results / "job.json").read_bytes())
    uname = os.uname()
    with JournalWriter(results / "journal.jsonl") as journal:
        journal.write(Ready(uname.release, uname.version, uname.machine))
        journal.write(Begin("probe", 1), Started(0))
        journal.write(Observed(Observation(step=0, text=encode(probe(job, results)).decode())))
        journal.write(End("probe"), Done())


main(Path(sys.argv[1]))
