"""From source to verdict with a real kernel tree: slow, behind ``make test-source``.

Builds Debian's linux-source-6.12 once (some minutes) in the cache, and module after module then.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.guest.fetch import debian_source

DMSNAP = (sys.executable, "-m", "harness.cli.main")
SECONDS_AFTER_A_CHANGE = 20.0
pytestmark = pytest.mark.skipif(
    not os.environ.get("DMSNAP_TEST_SOURCE"), reason="builds a kernel: make test-source"
)


@pytest.fixture(scope="module")
def tree():
    """Debian's tree as a repository: drivers/md is a copy, all else are links."""
    origin = debian_source.fetch("6.12", print)
    # Always the same place, so that a second run of these tests builds little.
    top = Path(os.environ["DMSNAP_TEST_SOURCE"]).absolute() / "a tree"
    shutil.rmtree(top, ignore_errors=True)
    (top / "drivers").mkdir(parents=True)
    for place in (origin, origin / "drivers"):
        for path in place.iterdir():
            name = path.relative_to(origin)
            if name.parts[0] not in (".gitignore",) and str(name) not in ("drivers", "drivers/md"):
                (top / name).symlink_to(path)
    shutil.copytree(origin / "drivers/md", top / "drivers/md")
    git(top, "init", "-q")
    git(top, "add", "drivers/md")
    commit(top, "as it was")
    return top


def git(tree, *words):
    done = subprocess.run(
        ["git", "-C", str(tree), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(tree, subject):
    git(
        tree,
        "-c",
        "user.name=nobody",
        "-c",
        "user.email=nobody@localhost",
        "commit",
        "-q",
        "--allow-empty",
        "-am",
        subject,
    )
    return git(tree, "rev-parse", "HEAD")


def change(tree, name, before, after):
    path = tree / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def run(tree, report, *words):
    return subprocess.run(
        [*DMSNAP, "run", "--source", str(tree), "--report", str(report), *words],
        capture_output=True,
        text=True,
    )


def test_a_source_is_judged_and_its_tree_stays(tree, tmp_path):
    done = run(tree, tmp_path / "report", "bring_up")
    assert done.returncode == 0, done.stderr
    assert f"built of {tree} (6.12." in done.stdout
    assert not git(tree, "status", "--porcelain", "--", "drivers/md")
    left = [path for path in tree.iterdir() if not path.is_symlink()]
    assert sorted(path.name for path in left) == [".git", "drivers"]


def test_a_change_of_one_line_is_judged_soon(tree, tmp_path):
    change(tree, "drivers/md/dm-snap.c", "\n\n", "\n/* a line */\n\n")
    started = time.process_time(), os.times().children_user
    done = run(tree, tmp_path / "report", "bring_up")
    assert done.returncode == 0, done.stderr
    assert os.times().children_user - started[1] < SECONDS_AFTER_A_CHANGE
    git(tree, "checkout", "-q", "--", "drivers/md")


def test_bisect_names_the_commit_that_broke_it(tree, tmp_path):
    good = git(tree, "rev-parse", "HEAD")
    # Not right before the bad one: which of the two it is, bisect could not say then.
    change(tree, "drivers/md/dm-snap.c", "#include <linux/blkdev.h>", "#include <linux/nothing.h>")
    commit(tree, "does not build")
    change(tree, "drivers/md/dm-snap.c", "#include <linux/nothing.h>", "#include <linux/blkdev.h>")
    commit(tree, "builds again")
    sectors = "(unsigned long long)total_sectors,"
    change(tree, "drivers/md/dm-snap.c", sectors, f"{sectors[:-1]} - 1,")
    bad = commit(tree, "a slip")
    change(tree, "drivers/md/dm-snap.c", "\n\n", "\n/* a comment */\n\n")
    commit(tree, "a comment")
    git(tree, "bisect", "start", "HEAD", good)
    try:
        said = git(
            tree,
            "bisect",
            "run",
            *DMSNAP,
            "run",
            "--source",
            ".",
            "--report",
            str(tmp_path / "report"),
            "bring_up",
        )
    finally:
        git(tree, "bisect", "reset")
        git(tree, "reset", "-q", "--hard", good)
    assert f"{bad} is the first bad commit" in said
