"""The host of `caged_probe.py`: what it may try to touch, and the cage around it.

``python cage_host.py KIND DIRECTORY`` (KIND: namespaces, landlock, none) prints what it printed.
"""

import json
import os
import select
import shutil
import signal
import socket
import sys
import uuid
from pathlib import Path

from harness.guest import confinement
from harness.guest.cage import MEMORY
from harness.guest.catalogue import Kernel
from harness.guest.host_root import private_dir
from harness.guest.process import KeptProcess

kind, place = sys.argv[1], Path(sys.argv[2])
results = place / "report/results"
results.mkdir(parents=True)
victim = place / "victim"
victim.write_text("mine")
secret = place / "secret"
secret.write_text("key")
secret.chmod(0o600)
private = private_dir()
abstract = uuid.uuid4().hex
listeners = []
for family, address in (
    (socket.AF_UNIX, str(place / "socket")),
    (socket.AF_UNIX, "\0" + abstract),
    (socket.AF_INET, ("127.0.0.1", 0)),
):
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()
    listeners.append(listener)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

confinement.allowed = lambda **_: confinement.Allowed("" if kind == "none" else kind, kind)
kernel = Kernel("none", Path(sys.executable), place / "no modules", guest="uml")
cage = confinement.confine(
    sys.executable,
    kernel,
    Path(sys.executable),
    (),
    results=results,
    private=private,
    memory=Path("/dev/shm"),
    memory_mib=8,
)
own = [str(results), str(private), MEMORY, *([cage.memory] if cage else [])]
about = {
    "results": str(results),
    "victim": str(victim),
    "secret": str(secret),
    "own": own,
    "socket": str(place / "socket"),
    "abstract": abstract,
    "kind": kind,
    "port": listeners[2].getsockname()[1],
    "pid": os.getpid(),
}
probe = private / "probe.py"
shutil.copyfile(Path(__file__).with_name("caged_probe.py"), probe)
guest = KeptProcess(
    [sys.executable, "-I", "-S", probe, json.dumps(about)],
    results=results,
    private=private,
    cage=cage,
    env={"PATH": os.defpath},
)
select.select([guest], [], [], 60)
guest.end()
print(guest.console_tail())
left = [
    str(path)
    for path in (private, Path(cage.memory or private) if cage else private)
    if path.exists()
]
assert not left, left
