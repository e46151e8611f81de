"""The command: what a user types and reads, and that no traceback ever reaches them."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner, Result

from harness.campaign.run import IN_REPORT
from harness.cli.main import main
from harness.cli.options import EXIT_CANNOT, EXIT_DIFFERS
from harness.compare.diff import Verdict
from harness.errors import CannotBoot, ProvisioningError
from harness.guest import catalogue, fallback
from harness.guest.catalogue import Kernel
from harness.guest.choice import chosen_kernels
from harness.guest.fetch import provision
from harness.scenarios.registry import choose
from harness.trace import files as traces
from harness.trace.files import Trace
from harness.twin.profile import PROFILES
from harness.verdict import result as model
from harness.verdict.result import RunReport

COMMANDS = ("doctor", "kernels", "list", "replay", "run", "trace")


@pytest.fixture
def dmsnap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Type a command in an empty directory, with an empty cache and nowhere to fetch from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def nothing(*_: object, **__: object) -> None:
        raise ProvisioningError("for a test there are no kernels: fetch one")

    monkeypatch.setattr(provision, "fetch", nothing)

    def typed(*words: object, standard_input: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(main, [str(word) for word in words], input=standard_input)
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        assert "Traceback" not in result.output
        return result

    return typed


def refused(result: Result, *says: str) -> None:
    """Exit status 2, one line, nothing on standard output."""
    assert result.exit_code == EXIT_CANNOT
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("dmsnap: ")
    for text in says:
        assert text in line


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_names_every_command(dmsnap, words) -> None:
    text = dmsnap(*words).stdout
    assert all(f"\n  {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "kernels fetch"])
def test_each_command_explains_itself(dmsnap, command: str) -> None:
    result = dmsnap(*command.split(), "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: main {command}")
    assert len(result.stdout.splitlines()) > 5


def test_what_is_no_command_is_refused(dmsnap) -> None:
    result = dmsnap("runn")
    assert result.exit_code == EXIT_CANNOT
    assert "No such command 'runn'" in result.stderr


# -- list ---------------------------------------------------------------------------------------


def test_list_shows_each_scenario_once_with_what_it_is_about(dmsnap) -> None:
    result = dmsnap("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("  bring_up ")] == ["  bring_up ×3"]
    assert lines[0] == "creation"
    assert any(line.startswith("  lost ×3  (only when named)") for line in lines)
    for scenario in choose([]):
        assert f"      {scenario.about}" in lines
    assert "covers:" not in result.stdout


def test_list_of_a_pattern(dmsnap) -> None:
    text = dmsnap("list", "overflow_in_one*", "bring_up[P]", "--rows").stdout
    assert [line.strip() for line in text.splitlines() if line[:2] != "  " or line[2] != " "] == [
        "creation",
        "bring_up",
        "overflow",
        "overflow_in_one_write ×6",
    ]
    assert "covers: dmtest: bring_up_snapshot_target" in text


@pytest.mark.parametrize("command", ["list", "trace", "run"])
def test_a_pattern_that_matches_nothing(dmsnap, command: str) -> None:
    refused(dmsnap(command, "nosuch*"), "no scenario matches nosuch*", "dmsnap list")


# -- trace --------------------------------------------------------------------------------------


def test_trace_prints_what_can_be_read_back(dmsnap) -> None:
    result = dmsnap("trace", "bring_up[PO]", "--seed", 5)
    assert result.exit_code == 0
    assert traces.loads(result.stdout) == choose(["bring_up[PO]"])[0].trace(5)


def test_trace_of_a_name_with_variants_names_them(dmsnap) -> None:
    refused(dmsnap("trace", "bring_up"), "bring_up has 3 variants", "bring_up[P]", "bring_up[N]")


@pytest.mark.parametrize("seed", ["-1", "x", str(1 << 63)])
def test_a_seed_that_is_none(dmsnap, seed: str) -> None:
    result = dmsnap("trace", "bring_up[P]", "--seed", seed)
    assert result.exit_code == EXIT_CANNOT
    assert "'--seed'" in result.stderr


# -- replay -------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bring_up.jsonl"
    path.write_bytes(traces.dumps(bring_up()))
    return path


def bring_up() -> Trace:
    return choose(["bring_up[P]"])[0].trace()


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_replay_on_the_twin_writes_observations(
    dmsnap, file: Path, tmp_path: Path, profile: str | None
) -> None:
    named = () if profile is None else ("--profile", profile)
    result = dmsnap("replay", file, "--on", "twin", *named)
    assert result.exit_code == 0
    place = "report/replay/twin.jsonl"
    assert result.stdout == f"{len(bring_up().steps)} observations: {place}\n"
    seen = traces.read_observations(tmp_path / place)
    assert (seen.header.side, seen.header.scenario) == ("twin", "bring_up[P]")
    assert seen.header.profile == PROFILES[profile or "6.12"].facts()
    assert [each.step for each in seen.observations] == list(range(len(bring_up().steps)))


def test_replay_of_what_comes_in(dmsnap, file: Path, tmp_path: Path) -> None:
    result = dmsnap(
        "replay",
        "-",
        "--on",
        "twin",
        "--output",
        tmp_path / "a" / "b",
        standard_input=file.read_bytes(),
    )
    assert result.exit_code == 0
    assert (tmp_path / "a/b/twin.jsonl").exists()


BAD_TRACES = [
    ("", "trace: the file is empty"),
    ("not json\n", "line 1: "),
    ('{"dmsnap-trace":2,"scenario":"x"}\n', "line 1, field $.dmsnap-trace: version 2"),
    ('{"dmsnap-observations":1,"scenario":"x"}\n', "this is an observations file"),
    ('{"dmsnap-trace":1,"scenario":"x"}\n{"do":"fly"}\n', "line 2, field $.do"),
    (
        '{"dmsnap-trace":1,"scenario":"x"}\n\n{"do":"disk","name":"a","sectors":"8"}\n',
        "line 3, field $.sectors: Expected `int`, got `str`",
    ),
    ('{"dmsnap-trace":1,"scenario":"x"}\n{"do":"disk","name":"a"}\n', "line 2, field $.sectors"),
    ("[" * 100_000, "line 1"),
]


@pytest.mark.parametrize(("text", "says"), BAD_TRACES)
@pytest.mark.parametrize("side", ["twin", "both"])
def test_a_malformed_trace_is_told_with_line_and_field(
    dmsnap, tmp_path: Path, text: str, says: str, side: str
) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    refused(dmsnap("replay", "bad.jsonl", "--on", side), says)
    assert not (tmp_path / "report").exists()


def test_a_trace_that_is_no_text(dmsnap, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe\x00")
    refused(dmsnap("replay", "bad.jsonl", "--on", "twin"), "line 1")


def test_a_file_that_is_not_there(dmsnap, tmp_path: Path) -> None:
    refused(
        dmsnap("replay", "nowhere.jsonl", "--on", "twin"),
        "nowhere.jsonl: No such file or directory",
    )
    (tmp_path / "a directory").mkdir()
    result = dmsnap("replay", "a directory", "--on", "twin")
    assert result.exit_code == EXIT_CANNOT
    assert "'a directory' is a directory" in result.stderr


def test_observations_that_cannot_be_written(dmsnap, file: Path, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file in the way")
    refused(dmsnap("replay", file, "--on", "twin"), "report/replay: ")


def test_a_trace_without_meaning(dmsnap, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"dmsnap-trace":1,"scenario":"x"}\n{"do":"read","device":"a","sector":0,"sectors":1}\n'
    )
    refused(dmsnap("replay", "t.jsonl", "--on", "twin"), "no device named a")


def test_a_profile_beside_a_kernel(dmsnap, file: Path) -> None:
    for side in ("kernel", "both"):
        refused(dmsnap("replay", file, "--on", side, "--profile", "6.1"), "needs --on twin")
    refused(dmsnap("replay", file, "--on", "twin", "--profile", "5.0"), "no profile named '5.0'")


# -- kernels ------------------------------------------------------------------------------------


def test_a_directory_of_modules_has_some(dmsnap, tmp_path: Path) -> None:
    refused(
        dmsnap("run", "bring_up", "--kernel", "uml-6.1", "--modules", tmp_path),
        f"--modules {tmp_path} holds none of the modules that guests load",
        "CONFIG_DM_SNAPSHOT=m",
    )
    refused(dmsnap("run", "bring_up", "--modules", tmp_path), "holds none of the modules")
    refused(dmsnap("run", "bring_up", "--kernel", "./linux"), "give its modules with --modules")


@pytest.mark.parametrize("command", [["run", "bring_up"], ["replay", "bring_up.jsonl"]])
def test_a_kernel_that_nobody_knows(dmsnap, file: Path, command: list[str]) -> None:
    assert file.exists()
    refused(dmsnap(*command, "--kernel", "uml-9"), "uml-9", "uml-6.12")


def test_a_program_that_is_no_kernel(dmsnap, tmp_path: Path) -> None:
    refused(
        dmsnap("run", "bring_up", "--kernel", tmp_path / "nothing", "--modules", tmp_path),
        "nothing",
    )


def test_a_kernel_that_cannot_be_fetched(dmsnap, file: Path) -> None:
    refused(dmsnap("run", "bring_up"), "for a test there are no kernels")
    refused(dmsnap("replay", file), "for a test there are no kernels")
    refused(dmsnap("kernels", "fetch", "uml-6.1"), "for a test there are no kernels")
    refused(dmsnap("kernels", "fetch", "uml-9"), "uml-9")


def test_kernels_lists_the_catalogue(dmsnap, tmp_path: Path) -> None:
    text = dmsnap("kernels").stdout
    for entry in catalogue.entries():
        assert f"not cached: dmsnap kernels fetch {entry.name}" in text
    assert text.count("(default)") == 1
    assert text.endswith(f"cache: {tmp_path / 'cache'}/dmsnap/kernels, 0 MiB\n")


def kernel(name: str) -> Kernel:
    return Kernel(name, Path("linux"), Path("modules"))


def test_a_kernel_named_twice_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "fetch", lambda name, **_: kernel(name))
    assert chosen_kernels(["uml-7.2", "uml-6.1", "uml-7.2"], None, progress=print) == (
        kernel("uml-7.2"),
        kernel("uml-6.1"),
    )


def test_where_none_is_named_it_is_the_best_that_boots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "fetch", lambda name, **_: kernel(name))
    monkeypatch.setattr(fallback, "best", lambda _progress: kernel("the best"))
    assert chosen_kernels([], None, progress=print) == (kernel("the best"),)
    # What was named is taken, whether or not it boots.
    assert chosen_kernels([catalogue.default()], None, progress=print) == (
        kernel(catalogue.default()),
    )


def test_fetch_boots_what_it_brings(
    dmsnap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven = []

    def prove(kernel, **_rest):
        proven.append(kernel.name)
        if kernel.name == "uml-6.1":
            raise CannotBoot("uml-6.1 does not boot on this machine: it ended, without a word")

    monkeypatch.setattr(fallback, "prove", prove)
    monkeypatch.setattr(
        provision,
        "fetch",
        lambda name, **_: catalogue.Kernel(
            name, Path(__file__), tmp_path, guest=catalogue.entry_of(name).guest
        ),
    )
    result = dmsnap("kernels", "fetch", "uml-*", "deb-6.1")
    assert proven == ["uml-6.1", "uml-6.12", "uml-7.2"]
    assert result.exit_code == EXIT_DIFFERS
    assert result.stderr == (
        "dmsnap: uml-6.1 does not boot on this machine: it ended, without a word\n"
    )
    proven.clear()
    assert dmsnap("kernels", "fetch").exit_code == 0
    assert proven == ["uml-6.12"]


# -- run ----------------------------------------------------------------------------------------


def test_here_is_refused_on_a_machine_without_the_mark(dmsnap) -> None:
    result = dmsnap("run", "bring_up", "--guest", "here")
    assert result.exit_code == EXIT_CANNOT
    [line] = result.stderr.splitlines()
    assert line.startswith("dmsnap: ")
    refused(
        dmsnap("run", "bring_up", "--guest", "here", "--kernel", "uml-6.1"), "leave out --kernel"
    )


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["-j", "0"], "-j"),
        (["-j", "many"], "-j"),
        (["--step-limit", "0"], "--step-limit"),
        (["--driver", "telepathy"], "--driver"),
        (["--guest", "moon"], "--guest"),
        (["--seed", "-1"], "--seed"),
        (["--nosuch"], "--nosuch"),
    ],
)
def test_options_are_checked(dmsnap, words: list[str], option: str) -> None:
    result = dmsnap("run", "bring_up", *words)
    assert result.exit_code == EXIT_CANNOT
    assert option in result.stderr


def test_the_vagrant_machine_is_one_kernel_of_several(
    dmsnap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guest:
        def kernel(self) -> catalogue.Kernel:
            return catalogue.Kernel("vagrant", Path(__file__), tmp_path, guest="vagrant")

    plans = []

    def execute(plan, reporter, _finished):
        plans.append(plan)
        reporter.close()
        return RunReport()

    guest = Guest()
    monkeypatch.setattr("harness.campaign.run.execute", execute)
    monkeypatch.setattr("harness.guest.vagrant.Machine.check_installed", lambda _: None)
    monkeypatch.setattr("harness.cli.run.fit_vagrant_guest", lambda: guest)
    monkeypatch.setattr(
        provision,
        "fetch",
        lambda name, **_: catalogue.Kernel(
            name, Path(__file__), tmp_path, guest=catalogue.entry_of(name).guest
        ),
    )
    dmsnap("run", "bring_up", "--kernel", "uml-6.1", "--kernel", "vagrant", "-j", 3)
    dmsnap("run", "bring_up", "--guest", "vagrant")
    several, one = plans
    assert [(kernel.name, several.guests(kernel)) for kernel in several.kernels] == [
        ("uml-6.1", 3),
        ("vagrant", 1),
    ]
    assert [kernel.name for kernel in one.kernels] == ["vagrant"]
    assert several.launchers == one.launchers == {"vagrant": guest}
    refused(
        dmsnap("run", "bring_up", "--guest", "vagrant", "--kernel", "uml-6.1"),
        "use --kernel vagrant to run it among several",
    )


@pytest.mark.parametrize("verdict", ["same", "diverged"])
def test_the_exit_status_says_whether_all_are_the_same(
    dmsnap, tmp_path: Path, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def execute(plan, reporter, finished):
        assert not finished
        seen["plan"] = plan
        report = msgspec.json.decode(
            json.dumps(
                {
                    "dmsnap-results": 1,
                    "results": [
                        {
                            "scenario": trace.header.scenario,
                            "kernel": plan.kernels[0].name,
                            "verdict": verdict,
                        }
                        for trace in plan.traces
                    ],
                }
            ),
            type=RunReport,
        )
        reporter.begin([plan.kernels[0].name], len(plan.traces))
        for result in report.results:
            reporter.result(result)
        reporter.end(report)
        reporter.close()
        return report

    monkeypatch.setattr("harness.campaign.run.execute", execute)
    monkeypatch.setattr(
        provision, "fetch", lambda name, **_: catalogue.Kernel(name, Path(__file__), tmp_path)
    )
    monkeypatch.setattr(fallback, "prove", lambda *_args, **_named: "boots")
    result = dmsnap(
        "run",
        "bring_up",
        "-j",
        3,
        "--seed",
        9,
        "--driver",
        "dmsetup",
        "--report",
        "out",
        "--step-limit",
        7,
    )
    assert result.exit_code == (0 if verdict == "same" else EXIT_DIFFERS)
    last = ["report: out/index.html, junit.xml, run.ktap, results.json"]
    if verdict != "same":
        last.append(
            "to hand this to a maintainer: dmsnap report 'bring_up[P]' --kernel uml-6.12 --seed 0"
        )
    assert result.stdout.splitlines()[-len(last) :] == last
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.html",
        "junit.xml",
        "progress.jsonl",
        "results.json",
        "run.ktap",
    ]
    plan = seen["plan"]
    assert (plan.jobs, plan.driver, plan.step_limit_s, str(plan.directory)) == (
        3,
        "dmsetup",
        7.0,
        "out/guests",
    )
    assert [trace.header.seed for trace in plan.traces] == [9, 9, 9]


# -- before anything is fetched -----------------------------------------------------------------


@pytest.fixture
def tempted(dmsnap, monkeypatch: pytest.MonkeyPatch):
    """As `dmsnap`, where whatever would fetch or build fails the test; QEMU is installed."""

    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("fetched, or built, for a request that cannot be carried out")

    for place in (
        "harness.guest.fetch.provision.fetch",
        "harness.guest.fetch.apt.PrivateApt.__init__",
        "harness.guest.build.noinline.build",
        "harness.guest.vagrant.Machine.up",
    ):
        monkeypatch.setattr(place, forbidden)
    monkeypatch.setattr("harness.guest.qemu.check_installed", lambda: None)
    monkeypatch.setattr("harness.guest.vagrant.Machine.check_installed", lambda _: None)
    return dmsnap


IMPOSSIBLE = [
    ("coverage nosuch", "no scenario matches nosuch"),
    ("coverage --kernel nosuch", "no kernel is called 'nosuch'"),
    ("coverage --kernel uml-6.1", "that runs in QEMU"),
    ("coverage --update bring_up", "give no patterns"),
    ("run nosuch", "no scenario matches nosuch"),
    ("run --kernel uml-6.1 --kernel nosuch", "no kernel is called 'nosuch'"),
    ("run --kernel uml-6.1 --kernel ./nosuch --modules .", "holds none of the modules"),
    ("run --kernel ./nosuch --modules .", "there is no such file"),
    ("run --resume", "there is no run to resume"),
    ("run --report in-the-way/report", "is not a directory"),
    ("run --guest qemu --kernel uml-6.1", "leave out --guest qemu"),
    ("preflight --kernel uml-6.1 --kernel nosuch", "no kernel is called 'nosuch'"),
    ("headline --kernel uml-6.1 --kernel nosuch", "no kernel is called 'nosuch'"),
    ("lvm nosuch", "there is no situation nosuch"),
    ("lvm --kernel uml-6.1 --kernel nosuch", "no kernel is called 'nosuch'"),
    ("lvm --output in-the-way/lvm", "is not a directory"),
    ("replay nosuch.jsonl", "nosuch.jsonl"),
    ("replay bring_up.jsonl --kernel uml-6.1 --kernel nosuch", "no kernel is called 'nosuch'"),
    ("replay bring_up.jsonl --output in-the-way/x", "is not a directory"),
    ("kernels fetch uml-6.1 nosuch", "no kernel is called 'nosuch'"),
]


@pytest.mark.parametrize(("words", "says"), IMPOSSIBLE, ids=[words for words, _ in IMPOSSIBLE])
def test_nothing_is_fetched_for_what_cannot_be(
    tempted, file: Path, words: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "in-the-way").touch()
    monkeypatch.setattr("harness.lvm.enact.check_installed", lambda: None)
    result = tempted(*words.split())
    assert result.exit_code == EXIT_CANNOT
    assert says in result.stderr


def lacking(what: str, *cures: str):
    def check(*_: object) -> None:
        raise ProvisioningError(f"{what} is missing; type: {' '.join(cures)}")

    return check


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("harness.guest.qemu.check_installed", "run --kernel deb-6.1"),
        ("harness.guest.qemu.check_installed", "run --kernel uml-6.1 --kernel deb-*"),
        ("harness.guest.qemu.check_installed", "preflight --kernel deb-6.1"),
        ("harness.guest.qemu.check_installed", "headline --kernel deb-6.1"),
        ("harness.guest.qemu.check_installed", "replay bring_up.jsonl --kernel deb-6.1"),
        ("harness.guest.qemu.check_installed", "coverage"),
        ("harness.guest.build.noinline.check", "coverage"),
        ("harness.guest.vagrant.Machine.check_installed", "run --kernel uml-6.1 --kernel vagrant"),
        ("harness.guest.vagrant.Machine.check_installed", "run --guest vagrant"),
        ("harness.lvm.enact.check_installed", "lvm"),
    ],
)
def test_what_this_machine_lacks_is_told_before_a_download(
    tempted, file: Path, place: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file.exists()
    monkeypatch.setattr("harness.guest.build.noinline.check", lambda _: None)
    monkeypatch.setattr(place, lacking("the program"))
    refused(tempted(*words.split()), "the program is missing")


@pytest.mark.parametrize(
    "words",
    [
        "run",
        "kernels fetch uml-6.1",
        "kernels fetch deb-*",
        "coverage",
        "preflight",
        "headline",
        "lvm",
        "replay bring_up.jsonl",
    ],
)
def test_room_is_asked_for_before_a_download(
    tempted, file: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file.exists()
    monkeypatch.setattr("harness.lvm.enact.check_installed", lambda: None)
    real = os.statvfs

    def full(place: str) -> SimpleNamespace:
        room = real(place)
        return SimpleNamespace(f_bavail=(400 << 20) // room.f_frsize, f_frsize=room.f_frsize)

    monkeypatch.setattr("harness.guest.catalogue.os.statvfs", full)
    result = tempted(*words.split())
    assert result.exit_code == EXIT_CANNOT
    assert re.search(r"needs \d+ MiB in .*, where (399|400) MiB are free", result.stderr)


def test_a_place_that_cannot_be_written(tempted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.files.os.access", lambda *_: False)
    for words in ("run", "coverage"):
        refused(tempted(*words.split()), "cannot write into report", "is not writable for you")


GOES_ON = "`dmsnap run --resume` with the same arguments continues it"


@pytest.mark.parametrize(
    ("words", "says"),
    [((), ""), (("all is well",), "; all is well"), ((IN_REPORT,), f"; {IN_REPORT}; {GOES_ON}")],
)
def test_what_was_interrupted_says_what_has_become_of_the_report(
    dmsnap, words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt(*words)

    monkeypatch.setattr("harness.campaign.run.execute", interrupt)
    monkeypatch.setattr(
        provision, "fetch", lambda name, **_: catalogue.Kernel(name, Path(__file__), tmp_path)
    )
    result = dmsnap("run", "bring_up", "--kernel", "uml-6.12")
    assert (result.exit_code, result.stderr) == (130, f"dmsnap: interrupted{says}\n")


def test_a_run_on_github_adds_its_summary(
    dmsnap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(plan, reporter, _finished):
        report = RunReport(
            results=tuple(
                model.Result(scenario=trace.header.scenario, kernel="k", verdict=Verdict.SAME)
                for trace in plan.traces
            )
        )
        reporter.end(report)
        return report

    monkeypatch.setattr("harness.campaign.run.execute", execute)
    monkeypatch.setattr(
        provision, "fetch", lambda name, **_: catalogue.Kernel(name, Path(__file__), tmp_path)
    )
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert dmsnap("run", "bring_up", "--kernel", "uml-6.12").exit_code == 0
    assert (tmp_path / "summary.md").read_text().startswith("## dm-snapshot: nothing differs\n")


def test_kernels_that_are_not_needed_are_removed(dmsnap, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("uml-6.1", "uml-6.12"):
        directory = catalogue.cache_dir() / name
        directory.mkdir(parents=True)
        (directory / "linux").write_bytes(bytes(3 << 20))
    assert "uml-6.1: 3 MiB would be removed" in dmsnap("kernels", "prune", "--dry-run").stdout
    done = dmsnap("kernels", "prune")
    assert done.exit_code == 0, done.output
    assert done.stdout == "uml-6.1: 3 MiB removed\n3 MiB are free\n"
    assert [path.name for path in catalogue.cache_dir().iterdir() if path.is_dir()] == ["uml-6.12"]
    refused(dmsnap("kernels", "prune", "uml-6.13"), "did you mean uml-6.1 or uml-6.12?")
