"""An agent that loses its guest on purpose: run in a real one by test_guest_loss.py.

The first word of a scenario's name says how it goes.
"""

import json
import os
import sys
from pathlib import Path

from harness.journal import Begin, Done, End, JournalWriter, Observed, Ready, Started
from harness.steps import Observation

HOST_FILE = Path(__file__)


def facts():
    """What a step can see of the guest, as text."""
    try:
        HOST_FILE.open("a").close()
        host = "writable"
    except OSError as fault:
        host = os.strerror(fault.errno)
    modules = Path(os.environ["DMSNAP_MODULES"])
    return json.dumps({
        "host": host,
        "modules": [path.name for path in modules.rglob("dm-snapshot.ko")],
        "release": modules.name,
        "guest": os.environ["DMSNAP_GUEST"],
        "tmp": os.environ["TMPDIR"],
        "panic_on_oops": Path("/proc/sys/kernel/panic_on_oops").read_text().strip(),
    })


def lose(how, spared):
    """Lose the guest; a file that the host makes is what spares a scenario to be killed."""
    match how:
        case "panic":
            Path("/proc/sysrq-trigger").write_text("c")
        case "hang":
            # Nothing else in the guest gets the processor from here on.
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
            while True:
                pass
        case "killed":
            while not spared.exists():  # the host kills us
                os.sched_yield()
        case "exit":
            os._exit(4)


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
            lose(name.partition("-")[0], results.parent / "spared")
            journal.write(Observed(Observation(step=1)))
            journal.write(End(name))
        journal.write(Done())


main(Path(sys.argv[1]))
