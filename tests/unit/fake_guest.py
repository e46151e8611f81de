"""A program that behaves like a guest, or as badly as one can: run by test_supervise.py.

The names of the scenarios say what happens to them.  ``NAME-once`` misbehaves only in the first
guest that meets it.  It imports nothing that takes time to load.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

results = Path(sys.argv[1])
job = json.loads((results / "job.json").read_text())
journal = os.open(results / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def say(record, **fields):
    os.write(journal, json.dumps({"record": record, **fields}).encode() + b"\n")


def step(number):
    say("started", step=number)
    say("observed", observation={"step": number, "text": results.name})


def wait_for_ever():
    while True:
        signal.pause()


def first_time(name):
    try:
        (results.parent / f"seen-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def family():
    """A grandchild that leaves the session and outlives whoever made it."""
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"], start_new_session=True
    )


def run(name):
    kind, _, rest = name.partition("-")
    if rest.endswith("once") and not first_time(name):
        kind = "ok"
    if kind == "before":
        sys.exit(3)
    if kind == "early":
        say("done")
        wait_for_ever()
    if kind == "swap":
        say("begin", scenario="another", seed=7)
        wait_for_ever()
    say("begin", scenario=name, seed=7)
    step(0)
    if kind == "skipped":
        say("started", step=1)
        say("end", scenario=name)
        wait_for_ever()
    if kind == "other":
        say("end", scenario="another")
        wait_for_ever()
    if kind == "short":
        say("end", scenario=name)
        wait_for_ever()
    if kind == "gap":
        say("started", step=2)
        wait_for_ever()
    say("started", step=1)
    match kind:
        case "panic":
            print("Kernel panic - not syncing: for a test", flush=True)
            os.abort()
        case "exit":
            sys.exit(0)
        case "killed":
            family()
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            family()
            wait_for_ever()
        case "rubbish":
            os.write(journal, b"\x00\xff not json\n")
            wait_for_ever()
        case "latin1":
            os.write(journal, b'{"record":"begin","scenario":"\xe9","seed":1}\n')
            wait_for_ever()
        case "nested":
            os.write(journal, b'{"record":"ready","more":' + b"[" * 100_000 + b"\n")
            wait_for_ever()
        case "endless":
            while True:
                os.write(journal, b"no end " * 1000)
        case "cut":
            # A whole End whose newline never came: it does not count.
            say("observed", observation={"step": 1})
            os.write(journal, json.dumps({"record": "end", "scenario": name}).encode())
            sys.exit(1)
        case "full":
            print("OSError: [Errno 28] No space left on device", flush=True)
            sys.exit(1)
        case "fault":
            say("end", scenario=name, fault="no such device {x}")
            return
    say("observed", observation={"step": 1})
    if kind == "more":
        step(2)
    say("end", scenario=name, **({"leftovers": ["ghost"]} if kind == "leftover" else {}))
    if kind == "twice":
        say("end", scenario=name)
        wait_for_ever()


boot = job.get("boot", "ok")
print("console of", results.name, flush=True)
if boot == "dies" or (boot == "dies-once" and first_time("boot")):
    print("Kernel panic - not syncing: no init found", flush=True)
    os.abort()
if boot == "silent":
    wait_for_ever()
say("ready", release="1.2.3-fake", version="#1")
for scenario in job["scenarios"]:
    run(scenario)
say("done")
if boot == "lingers":
    wait_for_ever()
