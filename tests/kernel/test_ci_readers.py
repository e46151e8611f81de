"""Reports are read by what CI reads them with: kunit.py of Linux 6.12, the schema of Jenkins.

Both readers are fetched once, into the cache, and nothing of them is kept in this repository.  The
first is 150 MB of kernel source around four files, so the tests stand here, where kernels are
fetched as well, and not among those that are run all the time.  Where a reader cannot be had the
test is skipped with the reason.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import xmlschema

from harness.campaign.plan import Plan
from harness.campaign.run import execute
from harness.compare.diff import Divergence, Layer, Verdict
from harness.errors import ProvisioningError
from harness.guest import catalogue
from harness.guest.fetch import downloads, provision
from harness.guest.fetch.apt import PrivateApt, debian_mirror
from harness.guest.programs import run
from harness.report.junit import JunitReporter
from harness.report.junit import render as junit
from harness.report.ktap import KtapReporter
from harness.report.ktap import render as ktap
from harness.report.reporter import Reporters
from harness.scenarios.registry import choose
from harness.verdict.result import Environment, Result, RunReport

PROMISE_BROKEN = ("origin_not_resumed[P]",)
SCENARIOS = ("bring_up", "ctr_features", "overflow_in_one_write[P-org]", *PROMISE_BROKEN)
STRANGE = """\
Subtest: another
KTAP version 1
1..3
ok 1 another # SKIP
not ok 2 another
List of all partitions:
Kernel panic - not syncing: VFS: Unable to mount root fs
reboot: System halted
\x1b[31m&]]>\0
"""


def fetched(name: str, fetch: Callable[[Path, Path], None]) -> Path:
    """What ``fetch`` puts into a directory, once for this machine."""
    home = catalogue.cache_dir().parent / "readers" / name
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=home.parent) as work:
            fresh = Path(work, "fresh")
            fresh.mkdir()
            try:
                fetch(fresh, Path(work))
            except (ProvisioningError, subprocess.SubprocessError, OSError) as fault:
                pytest.skip(f"{name} cannot be had: {fault}")
            fresh.rename(home)
    return home


def fetch_kunit(into: Path, work: Path) -> None:
    """tools/testing/kunit of Debian 13's kernel, and no more of it."""
    apt = PrivateApt("trixie", work / "apt", debian_mirror(), print)
    apt.update()
    deb = apt.download("linux-source-6.12")
    archive = work / "linux.tar.xz"
    with (
        archive.open("wb") as file,
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source,
    ):
        subprocess.run(
            ["tar", "-xO", "--wildcards", "./usr/src/linux-source-*.tar.xz"],
            stdin=source.stdout,
            stdout=file,
            check=True,
            timeout=300,
        )
    status, said = run(
        [
            "tar",
            "-xJf",
            str(archive),
            "-C",
            str(into),
            "--strip-components=1",
            "--wildcards",
            "*/tools/testing/kunit",
        ],
        limit_s=300,
    )
    if status:
        raise ProvisioningError(said)
    downloads.served(apt.packages)


def fetch_schema(into: Path, work: Path) -> None:
    """The schema, of which pytest's own tests have a copy."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--dest",
            work,
            "pytest",
        ],
        check=True,
        timeout=300,
        capture_output=True,
    )
    [source] = work.glob("pytest-*.tar.gz")
    with tarfile.open(source) as archive:
        [member] = [each for each in archive if each.name.endswith("/junit-10.xsd")]
        file = archive.extractfile(member)
        assert file is not None
        (into / "junit-10.xsd").write_bytes(file.read())


@pytest.fixture(scope="session")
def kunit() -> Callable[[bytes], tuple[dict[str, list[tuple[str, str]]], str, int]]:
    """The kernel's reader: kernel → its tests with their status, what is printed, exit status."""
    home = fetched("kunit-6.12", fetch_kunit)

    def read(text: bytes) -> tuple[dict[str, list[tuple[str, str]]], str, int]:
        with tempfile.TemporaryDirectory() as work:
            file, out = Path(work, "run.ktap"), Path(work, "out.json")
            file.write_bytes(text)
            done = subprocess.run(
                [
                    sys.executable,
                    "-B",
                    home / "tools/testing/kunit/kunit.py",
                    "parse",
                    f"--json={out}",
                    file,
                ],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=work,
            )
            assert out.exists(), done.stderr
            found = json.loads(out.read_text())
        [last] = [line for line in done.stdout.splitlines() if "Testing complete." in line]
        assert "Traceback" not in done.stderr
        return (
            {
                group["name"]: [(case["name"], case["status"]) for case in group["test_cases"]]
                for group in found["sub_groups"]
            },
            last.partition("complete. ")[2],
            done.returncode,
        )

    return read


@pytest.fixture(scope="session")
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(fetched("junit-10", fetch_schema) / "junit-10.xsd")


def result(
    scenario: str, verdict: Verdict = Verdict.SAME, kernel: str = "uml-6.12", **fields: Any
) -> Result:
    return Result(
        scenario=scenario,
        kernel=kernel,
        verdict=verdict,
        release="6.12.1",
        seed=1,
        compared={Layer.ERROR: 3},
        kernel_us=1_234_567,
        **fields,
    )


GREEN = tuple(result(f"fill[{number}]") for number in range(179))
DIFFERS = Divergence(
    step=3, verb="read", layer=Layer.CONTENT, what="content of s", left="a", right="b"
)
EVERY = (
    result("same"),
    result("diverged", Verdict.DIVERGED, divergences=(DIFFERS,)),
    result("nondeterministic", Verdict.NONDETERMINISTIC, reason=STRANGE),
    result("lost", Verdict.LOST, reason=STRANGE, console=STRANGE),
    result("unsupported", Verdict.UNSUPPORTED, reason=STRANGE),
    result("broken", Verdict.BROKEN, reason=STRANGE),
    result("other order", orders=3, reason="x"),
    result("hangs", Verdict.HANGS, reason=STRANGE),
    result("dies", Verdict.DIES, reason=STRANGE, console=STRANGE),
)
STATUS = {
    "same": "PASS",
    "diverged": "FAIL",
    "nondeterministic": "FAIL",
    "lost": "FAIL",
    "unsupported": "SKIP",
    "broken": "FAIL",
    "other order": "PASS",
    "hangs": "PASS",
    "dies": "PASS",
}
"""What the kernel's reader makes of each verdict."""


def report_of(*results: Result) -> RunReport:
    return RunReport(
        environment=Environment(seconds=12.3456, started="2026-01-02T03:04:05+00:00"),
        results=results,
    )


def on(kernel: str, results: tuple[Result, ...]) -> tuple[Result, ...]:
    return tuple(msgspec.structs.replace(one, kernel=kernel) for one in results)


def test_every_verdict_is_one_of_ours() -> None:
    assert {one.verdict for one in EVERY} == set(Verdict)


@pytest.mark.parametrize("kernels", [("uml-6.12",), ("uml-6.1", "/home/x/linux #1", "uml-7.2")])
def test_kunit_calls_a_green_run_passed(kunit, kernels: tuple[str, ...]) -> None:
    groups, said, status = kunit(
        ktap(report_of(*(one for kernel in kernels for one in on(kernel, GREEN))))
    )
    count = 179 * len(kernels)
    assert said == f"Ran {count} tests: passed: {count}"
    assert status == 0
    assert {name: len(cases) for name, cases in groups.items()} == {
        kernel.replace("#", "_"): 179 for kernel in kernels
    }


def test_kunit_counts_every_verdict(kunit) -> None:
    groups, said, status = kunit(ktap(report_of(*EVERY, *on("uml-7.2", GREEN[:3]))))
    assert groups == {
        "uml-6.12": list(STATUS.items()),
        "uml-7.2": [(one.scenario, "PASS") for one in GREEN[:3]],
    }
    assert said == "Ran 12 tests: passed: 7, failed: 4, skipped: 1"
    assert status == 1


def test_kunit_reads_a_run_of_nothing_supported(kunit) -> None:
    _, said, _ = kunit(ktap(report_of(result("x", Verdict.UNSUPPORTED, reason="no"))))
    assert said == "Ran 1 tests: skipped: 1"


@pytest.mark.parametrize(
    "report",
    [
        report_of(*EVERY),
        report_of(*GREEN, *on("uml-6.1", EVERY)),
        report_of(),
        report_of(*on('\0 & <odd> "name"', EVERY)),
    ],
)
def test_the_schema_of_jenkins_holds(schema: xmlschema.XMLSchema, report: RunReport) -> None:
    schema.validate(junit(report).decode())


def test_a_run_is_read_by_both(
    kunit, schema: xmlschema.XMLSchema, kernel_name: str, tmp_path: Path
) -> None:
    """A real kernel; one of the answers is changed on its way to the report."""
    traces = tuple(scenario.trace(1) for scenario in choose(SCENARIOS))
    files = JunitReporter(tmp_path / "junit.xml"), KtapReporter(tmp_path / "run.ktap")
    report = execute(
        Plan(
            traces=traces,
            kernels=(provision.fetch(kernel_name),),
            jobs=2,
            directory=tmp_path / "guests",
        ),
        Reporters(files),
    )
    groups, said, status = kunit((tmp_path / "run.ktap").read_bytes())
    assert groups == {kernel_name: [(trace.header.scenario, "PASS") for trace in traces]}
    assert (said, status) == (f"Ran {len(traces)} tests: passed: {len(traces)}", 0)
    schema.validate(str(tmp_path / "junit.xml"))
    assert any(one.promise_broken for one in report.results)
    wrong = msgspec.structs.replace(
        report.results[0], verdict=Verdict.DIVERGED, divergences=(DIFFERS,)
    )
    planted = msgspec.structs.replace(report, results=(wrong, *report.results[1:]))
    _, said, status = kunit(ktap(planted))
    assert (said, status) == (f"Ran {len(traces)} tests: passed: {len(traces) - 1}, failed: 1", 1)
    schema.validate(junit(planted).decode())


def test_what_is_not_whole_is_found(kunit, schema: xmlschema.XMLSchema) -> None:
    """Both readers tell a report that is not as it should be from one that is."""
    text = ktap(report_of(*EVERY))
    plan = f"  1..{len(EVERY)}\n".encode()
    assert plan in text
    _, said, _ = kunit(
        text.replace(b"  # Subtest: uml-6.12\n", b"").replace(
            plan, plan + b"  # Subtest: uml-6.12\n"
        )
    )
    assert "crashed" in said
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        schema.validate(
            junit(report_of(*EVERY))
            .decode()
            .replace("<system-out>", "<properties/><system-out>", 1)
        )
