"""Runs `probing_agent.py` in a guest: ``python probing_run.py KERNEL DIRECTORY [--no-cage]``.

Prints what it could do.
"""

import json
import sys
from pathlib import Path

from harness.guest import catalogue, confinement
from harness.guest.supervise import Supervisor

AGENT = Path(__file__).with_name("probing_agent.py")

kernel, place = catalogue.get(sys.argv[1]), Path(sys.argv[2])
if sys.argv[3:]:
    confinement.forgo()
(place / "victim").write_text("mine")
job = {"place": str(place), "hostfs": kernel.guest == catalogue.UML}
outcome = Supervisor(
    kernel,
    guests=1,
    results=place / "report/guests",
    python=Path(sys.executable),
    argv=[str(AGENT)],
    memory_mib=384,
    steps={"probe": 1},
    step_limit_s=60.0,
    job=lambda _names: json.dumps(job).encode(),
).run(["probe"])["probe"]
assert outcome.observations, outcome
assert outcome.observations[0].text, outcome
print(
    json.dumps(
        {"done": json.loads(outcome.observations[0].text), "cage": confinement.allowed().words}
    )
)
