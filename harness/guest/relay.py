"""A relay between dmsnap and an agent over ssh: the job goes in, the journal comes out.

``python -m harness.guest.relay RESULTS SSH…`` starts one ssh (SSH… is its command line, up to the
host) that runs `vm/agent-over-ssh` there.  What the agent writes into its journal is appended to
the one in RESULTS; what it prints goes to this program's standard error, the console.

To the keeper, this program is the guest.  When it is ended, ssh's standard input closes, and the
agent ends with it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from harness.guest.process import JOB_NAME, JOURNAL_NAME
from harness.wire.journal import JOURNAL_BYTES_MAX

AGENT: Final = "/dmsnap/vm/agent-over-ssh"
"""Where `Vagrantfile` puts this repository."""
_READ_BYTES: Final = 64 << 10


def main(results: Path, ssh: list[str]) -> int:
    """Relay until the agent has ended; returns ssh's exit status, which is the agent's."""
    job = (results / JOB_NAME).read_bytes()
    command = [*ssh, "sudo", "sh", AGENT, str(len(job))]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as there,
        (results / JOURNAL_NAME).open("ab", buffering=0) as journal,
    ):
        assert there.stdin is not None
        assert there.stdout is not None
        there.stdin.write(job)
        there.stdin.flush()
        left = JOURNAL_BYTES_MAX + 1  # which its reader rejects as too long
        while left > 0 and (data := os.read(there.stdout.fileno(), _READ_BYTES)):
            left -= journal.write(data)
        there.stdin.close()
        return there.wait()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
