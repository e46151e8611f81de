"""What test_defects.py runs in a guest: load the modules, then one reproducer; tell its end."""

import os
import subprocess
import sys
from pathlib import Path

from harness.kernel import modules

MODULES = (*modules.WANTED, "dm-log-writes")


def main(reproducer):
    directory = Path(os.environ["DMSNAP_MODULES"])
    for name in MODULES:
        modules.load(directory, name)
    modules.load(directory, "brd", "rd_nr=2 rd_size=65536")
    done = subprocess.run(
        ["/bin/sh", reproducer, "--this-machine-is-disposable"],
        check=False,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    print("exit status:", done.returncode, flush=True)


main(sys.argv[1])
