"""Readers that go, disks that are full, narrow terminals and signals: no report is lost by them."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

FAKE = Path(__file__).with_name("fake_dmsnap.py")
LIMIT_S = 120


def environment(tmp_path, names, **more):
    return {**os.environ, "FAKE_NAMES": names, "TMPDIR": str(tmp_path / "tmp"), **more}


@pytest.fixture
def start(tmp_path):
    """Starts ``dmsnap run`` (or another command) with programs in place of kernels."""
    (tmp_path / "tmp").mkdir()
    running = []

    def start(*words, names="ok-1 ok-2 ok-3", env=(), **options):
        words = words or ("run", "--report", tmp_path / "report", "-j", "1")
        running.append(
            subprocess.Popen(
                [sys.executable, FAKE, *words],
                text=True,
                stdin=subprocess.DEVNULL,
                env=environment(tmp_path, names, **dict(env)),
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        with process:  # which closes its pipes
            pass


def results(tmp_path):
    return json.loads((tmp_path / "report/results.json").read_text())["results"]


@pytest.mark.parametrize(("names", "status"), [("ok-1 ok-2 ok-3", 0), ("ok-1 wrong-1", 1)])
@pytest.mark.parametrize("streams", ["stdout", "both"])
def test_a_reader_that_goes_changes_nothing(start, tmp_path, names, status, streams):
    """As ``| head`` does, and ``2>&1 | head``."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start(names=names, stdout=writer, **({"stderr": writer} if streams == "both" else {}))
    os.close(writer)
    said = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == status
    assert not said
    assert len(results(tmp_path)) == len(names.split())
    assert (tmp_path / "report/junit.xml").exists()


def test_a_list_whose_reader_goes_is_no_difference(start):
    process = start("list")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(LIMIT_S) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize(("names", "status"), [("ok-1", 2), ("wrong-1", 1)])
def test_a_full_disk_behind_the_output(start, tmp_path, names, status):
    with Path("/dev/full").open("w") as full:
        process = start(names=names, stdout=full)
        said = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == status
    assert said.count("\n") == (1 if status == 2 else 0)
    assert ("No space left on device" in said) == (status == 2)
    assert len(results(tmp_path)) == 1


def test_a_full_disk_behind_a_list(start):
    with Path("/dev/full").open("w") as full:
        process = start("list", stdout=full)
        said = process.communicate(timeout=LIMIT_S)[1]
    assert (process.returncode, said.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)
@pytest.mark.parametrize("names", ["ok-1 ok-2 ok-3", "wrong-1"])
def test_a_terminal_that_knows_few_characters(start, tmp_path, env, names):
    process = start(names=names, env={**env, "PYTHONUTF8": "0"})
    out, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (int("wrong" in names), "")
    [report, *offer] = [
        line for line in out.splitlines() if line.startswith(("report: ", "to hand this"))
    ]
    assert report.startswith("report: ")
    assert len(offer) == ("wrong" in names)
    assert len(results(tmp_path)) == len(names.split())


@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_was_closed(start, tmp_path, closed):
    process = start(preexec_fn=lambda: os.close(closed))
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert len(results(tmp_path)) == 3


def test_few_descriptors_are_enough(start, tmp_path):
    process = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    said = process.communicate(timeout=LIMIT_S)[1]
    assert (process.returncode, said) == (0, "")
    assert len(results(tmp_path)) == 3


def test_reports_that_may_not_be_that_long(start):
    process = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)))
    said = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == 2
    assert said.count("\n") == 1
    assert "Traceback" not in said


# -- signals --------------------------------------------------------------------------------------


def wait_for(condition):
    """Wait, within bounds; no sleep decides a verdict."""
    pause = threading.Event()
    for _ in range(4000):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it did not come to that within 80 s")


def begun(directory, name):
    """Whether a guest has begun scenario ``name``."""
    return any(
        f'"scenario":"{name}"' in path.read_text() for path in directory.glob("**/journal.jsonl")
    )


def kept(tmp_path):
    """Processes whose command lines name the directory of this test."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if str(tmp_path) in text and "keeper.py" in text:
            found.append(text)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_report_and_nothing_else(start, tmp_path, number):
    process = start(names="ok-1 waits-1")
    wait_for(lambda: begun(tmp_path / "report/guests", "waits-1"))
    progress = tmp_path / "report/progress.jsonl"
    wait_for(lambda: progress.exists() and "ok-1" in progress.read_text())
    process.send_signal(number)
    said = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == 130
    assert said.startswith("dmsnap: interrupted; finished results are in the report")
    assert [result["scenario"] for result in results(tmp_path)] == ["ok-1"]
    assert (tmp_path / "report/junit.xml").exists()
    assert kept(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_replay_leaves_no_directory(start, tmp_path, number):
    made = start("trace", "bring_up", names="waits-1").communicate(timeout=LIMIT_S)[0]
    (tmp_path / "trace.jsonl").write_text(made)
    process = start("replay", tmp_path / "trace.jsonl", "--output", tmp_path / "out")
    wait_for(lambda: begun(tmp_path / "tmp", "waits-1"))
    process.send_signal(number)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert kept(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_signal_that_is_ignored_stays_so(start, tmp_path):
    """``nohup`` is what it says."""
    process = start(
        names="waits-1 ok-1", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    wait_for(lambda: begun(tmp_path / "report/guests", "waits-1"))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 130


def test_further_signals_do_not_disturb(start, tmp_path):
    process = start(names="waits-1")
    wait_for(lambda: begun(tmp_path / "report/guests", "waits-1"))
    for _ in range(20):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert kept(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []
