"""A program in place of a guest, for test_run.py: it answers a real job as the twin would.

The name of a scenario says how it goes; ``NAME-once`` goes so only in the first guest of a kernel.
"""

import os
import signal
import sys
from pathlib import Path

import msgspec

from harness.twin import explore
from harness.twin.profile import Profile
from harness.wire.job import decode_job
from harness.wire.journal import Begin, Done, End, JournalWriter, Observed, Ready, Started

results = Path(sys.argv[1])
job = decode_job((results / "job.json").read_bytes())
profile = Profile()


def first_time(name):
    try:
        (results.parent / f"seen-{name}-{os.environ['RUN']}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if job.driver == "dies":
    print("no kernel for", results.name, flush=True)
    sys.exit(1)
with JournalWriter(results / "journal.jsonl") as journal:
    journal.write(Ready("6.12.0-fake", "#1", probe=profile.facts()))
    for scenario in job.scenarios:
        kind = scenario.name.partition("-")[0]
        if scenario.name.endswith("once") and not first_time(scenario.name):
            kind = "ok"
        assert scenario.seed is not None
        journal.write(Begin(scenario.name, scenario.seed))
        if kind == "waits":
            signal.pause()
        fault = ""
        seen = explore.run(scenario.steps, scenario.seed, profile)
        for observation in seen:
            journal.write(Started(observation.step))
            if observation.step == 1 and kind == "exit":
                print("console of", scenario.name, flush=True)
                os._exit(3)
            if observation.step == 2 and kind == "fault":
                fault = "BadScenario: for a test"
                break
            if observation.step == 0 and kind == "wrong":
                observation = msgspec.structs.replace(observation, error="EIO")  # noqa: PLW2901
            journal.write(Observed(observation))
        journal.write(End(scenario.name, ("ghost",) if kind == "leftover" else (), fault))
        if kind == "leftover":
            break
    else:
        journal.write(Done())
