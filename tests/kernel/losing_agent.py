"""An agent that loses its guest on purpose: run in a real one by test_guest_loss.py.

The first word of a scenario's name says how it goes, the second, where there is one to choose
from, in which way.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from harness.kernel import machine, modules
from harness.kernel.drivers.ioctl import IoctlDriver
from harness.trace.observations import Observation
from harness.trace.steps import encode
from harness.wire.journal import Begin, Done, End, JournalWriter, Observed, Ready, Started

HOST_FILE = Path(__file__)
MODULES = Path(os.environ["DMSNAP_MODULES"])
RUBBISH = {
    "bytes": b"\0\1\2 no journal\n",
    "half": b'{"record":"obser',  # a whole record follows in the same line
    "latin1": b'{"record":"begin","scenario":"\xe9","seed":1}\n',
    "step": encode(Observed(Observation(step=7))) + b"\n",
    "name": encode(End("another")) + b"\n",
}
"""What takes the place of the observation of step 1."""


def facts():
    """What a step can see of the guest, as text."""
    try:
        HOST_FILE.open("a").close()
        host = "writable"
    except OSError as fault:
        host = fault.strerror or str(fault)
    return json.dumps(
        {
            "host": host,
            "modules": [path.name for path in MODULES.rglob("dm-snapshot.ko")],
            "release": MODULES.name,
            "guest": os.environ["DMSNAP_GUEST"],
            "tmp": os.environ["TMPDIR"],
            "panic_on_oops": Path("/proc/sys/kernel/panic_on_oops").read_text().strip(),
        }
    )


def lose(how, way, results):
    """Lose the guest; where only the host can do that, wait for it."""
    match how:
        case "panic":
            Path("/proc/sysrq-trigger").write_text("c")
        case "hang":
            # Nothing else in the guest gets the processor from here on.
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
            while True:
                pass
        case "stuck":
            modules.load_all(MODULES)
            driver = IoctlDriver()
            # A page that has yet to come from the host is waited for in state D as well.
            ctypes.CDLL(None).mlockall(1)  # MCL_CURRENT
            if os.fork():
                machine.crash("hang", driver)
            kill_in_vain(os.getppid())
        case "killed":
            while not (results.parent / "spared").exists():  # a file that the host may make
                os.sched_yield()
        case "exit":
            os._exit(4)
        case "rootless":
            if os.environ["DMSNAP_GUEST"] == "qemu":
                unplug("root")
            # Until it is gone and open() says so, or does not answer: a directory that goes
            # between open() and getdents() reads as an empty one.
            while True:
                list(Path("/").iterdir())
        case "mute":
            unplug("results")
        case "removed":
            signal.pause()
        case "rubbish" | "cut":
            with (results / "journal.jsonl").open("ab") as journal:
                journal.write(RUBBISH[way])
            if how == "cut":
                os._exit(4)
            if way != "half":
                signal.pause()


def kill_in_vain(process):
    """Kill a process once it sleeps uninterruptibly on a suspended device."""

    def state():
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]

    while "1" not in [
        path.read_text().strip() for path in Path("/sys/block").glob("dm-*/dm/suspended")
    ]:
        os.sched_yield()
    while state() != "D":
        os.sched_yield()
    os.kill(process, signal.SIGKILL)
    os.sched_yield()
    print("after SIGKILL in state", state(), flush=True)
    signal.pause()


def unplug(tag):
    """Switch off the 9p device ``tag``: it is still listed, and answers nothing any more."""
    for device in Path("/sys/bus/virtio/drivers/9pnet_virtio").glob("virtio*"):
        if (device / "mount_tag").read_text().strip("\0\n") == tag:
            command = (device.resolve().parent / "config").open("r+b", buffering=0)
            os.pwrite(command.fileno(), bytes(2), 4)  # PCI_COMMAND: no memory, no bus master


def main(results):
    job = json.loads((results / "job.json").read_bytes())
    uname = os.uname()
    with JournalWriter(results / "journal.jsonl") as journal:
        journal.write(Ready(uname.release, uname.version, uname.machine))
        for name in job["scenarios"]:
            journal.write(Begin(name, 1))
            journal.write(Started(0))
            # In one write, as the real agent does: who sees the step sees the next one started.
            journal.write(Observed(Observation(step=0, text=facts())), Started(1))
            how, _, way = name.partition("-")
            lose(how, way, results)
            journal.write(Observed(Observation(step=1)))
            journal.write(End(name))
        journal.write(Done())


main(Path(sys.argv[-1]))
