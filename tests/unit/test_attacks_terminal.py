"""What strangers have said, through every command and reporter: it arrives as plain text."""

import json
import re
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import dmsnap_pytest
import msgspec
import pytest
from click.testing import CliRunner
from click.testing import Result as Typed
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

import harness.guest.doctor
import harness.lvm.enact
import harness.measure.preflight
from harness import plugin
from harness.cli.main import main
from harness.compare.diff import Divergence, Layer, LayerLeftOut, Verdict
from harness.errors import ProvisioningError
from harness.guest import catalogue
from harness.report import github, junit, ktap
from harness.report.gate import Gate, gated, guarded, printable
from harness.report.terminal import Terminal
from harness.verdict.result import Environment, Result, RunReport, dumps

EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m\u202elive\u2066\u200b\ufeff\x7f\r\n::error::owned\n"
    "\t ::set-env name=PATH::.\n##vso[task.setvariable variable=x]y ##[error]z "
    "##teamcity[x] a##\n###[command]q \U000e0041\u2028::warning::w\x85::notice::n\x00"
)
RICH = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What rich itself writes: colours, the cursor."""


def is_plain(text: str) -> None:
    """Assert that nothing in it is more than text."""
    for line in text.split("\n"):
        assert line.isprintable() or not line, ascii(line)
        assert not line.lstrip().startswith("::"), line
        assert "##" not in line, line


def results(**more: Any) -> list[Result]:
    made = []
    for number, verdict in enumerate(Verdict):
        made.append(
            Result(
                scenario=f"{EVIL}{number}",
                kernel=EVIL,
                release=EVIL,
                verdict=verdict,
                reason=EVIL,
                console=EVIL * 3,
                compared={Layer.ERROR: 1},
                steps=1,
                not_compared=(LayerLeftOut(Layer.LOG, EVIL, 1, 1),),
                divergences=(
                    Divergence(
                        step=0, verb=EVIL, layer=Layer.STATUS, what=EVIL, left=EVIL, right=EVIL
                    ),
                ),
                **more,
            )
        )
    return made


def report() -> RunReport:
    return RunReport(
        environment=Environment(
            machine=EVIL,
            started=EVIL,
            dmsnap=EVIL,
            kernels={EVIL: EVIL},
            guests={EVIL: EVIL},
            instead={EVIL: EVIL},
        ),
        results=tuple(results()),
    )


@pytest.fixture
def dmsnap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def typed(*words: object) -> Typed:
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        is_plain(done.stdout)
        is_plain(done.stderr)
        return done

    return typed


# -- the gate itself --------------------------------------------------------------------------


def test_what_is_harmless_is_left_alone() -> None:
    for text in (
        "",
        "plain",
        "a\nb\n",
        "ähnlich – 日本 ×6 ✓",
        "a::b",
        "std::string # one",
        "C# 1::2",
    ):
        assert printable(text) == text


def test_each_kind_is_written_out() -> None:
    assert printable(" ::error::x") == " \\x3a:error::x"
    assert printable("a ##vso[x]") == "a \\x23#vso[x]"
    assert printable("\x1b[1m\u202e\r") == "\\x1b[1m\\x202e\\x0d"
    is_plain(printable(EVIL))


@given(st.lists(st.text(st.sampled_from("#:# \n\tax\x1b\u202e["), max_size=5), max_size=8))
def test_pieces_are_no_way_around(pieces: list[str]) -> None:
    below = StringIO()
    gate = Gate(below)
    for piece in pieces:
        assert gate.write(piece) == len(piece)
    is_plain(below.getvalue())


@given(st.text())
def test_whatever_is_said_is_plain(text: str) -> None:
    is_plain(printable(text))
    assert printable(printable(text)) == printable(text)


def test_every_way_to_say_something_is_gated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that knows nothing of the gate cannot get around it."""

    @click.command("evil")
    def evil() -> None:
        print(EVIL)
        print(EVIL, file=sys.stderr)
        click.echo(EVIL)
        click.echo(EVIL, err=True)
        sys.stdout.write(EVIL)
        sys.stdout.writelines([EVIL, "#", "#[x]", "\n:", ":error::"])
        raise ProvisioningError(EVIL)

    monkeypatch.setitem(main.commands, "evil", evil)
    done = CliRunner().invoke(main, ["evil"])
    assert done.exit_code == 2
    assert done.stdout.count("owned") == done.stderr.count("owned") * 4 / 3 > 3
    is_plain(done.stdout)
    is_plain(done.stderr)


def test_an_ascii_terminal_gets_all_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with gated():
            click.echo("×6 –")
    assert (tmp_path / "out").read_text() == "\\xd76 \\u2013\n"


@pytest.mark.parametrize("tty", [True, False])
def test_rich_keeps_its_own_sequences(tty: bool) -> None:
    out = StringIO()
    console = guarded(
        Console(file=out, force_terminal=tty, width=20, color_system="standard" if tty else None)
    )
    console.print(Text(EVIL, "bold red"))
    console.print("word " * 3 + "::error::owned")  # which is folded: a head of a line
    assert ("\x1b[1;31m" in out.getvalue()) is tty
    is_plain(RICH.sub("", out.getvalue()))


# -- reporters --------------------------------------------------------------------------------


@pytest.mark.parametrize("tty", [True, False])
@pytest.mark.parametrize("width", [30, 80])
def test_a_run_on_a_terminal(tty: bool, width: int) -> None:
    """Seen before: names of guests, and of kernels at the head of a table, came as they were."""
    out = StringIO()
    terminal = Terminal(Console(file=out, force_terminal=tty, width=width, highlight=False))
    terminal.begin([EVIL, "two"], 7)
    terminal.progress(EVIL, EVIL)
    for result in report().results:
        terminal.result(result)
    terminal.end(report())
    other = [msgspec.structs.replace(result, kernel="two") for result in report().results]
    terminal.end(msgspec.structs.replace(report(), results=(*report().results, *other)))
    assert "owned" in out.getvalue()
    is_plain(RICH.sub("", out.getvalue().replace("\r", "")))


def test_reports_that_are_files() -> None:
    """Seen before: bidirectional controls and orders stood in all of them."""
    for render in (junit.render, ktap.render):
        text = render(report()).decode()
        assert "owned" in text
        # KTAP's own lines may begin with #, never with two.
        is_plain(text)
    summary = github.render(report()).decode()
    assert all(each.isprintable() or each == "\n" for each in summary)
    assert not re.search(r"^\s*::|\x1b", summary, re.MULTILINE)


def test_pytest_gets_plain_words() -> None:
    """Seen before: the plugin handed them to pytest as they were."""
    for result in report().results:
        try:
            dmsnap_pytest.check(dmsnap_pytest.ScenarioResult(**plugin.answer(result)))
        except (pytest.fail.Exception, pytest.skip.Exception) as fault:
            is_plain(str(fault))


# -- commands ---------------------------------------------------------------------------------


def test_compare(dmsnap: Any, tmp_path: Path) -> None:
    """Seen before: scenario names of a results file moved the cursor."""
    one, other = report(), report()
    other = msgspec.structs.replace(
        other,
        results=tuple(
            msgspec.structs.replace(
                each, verdict=Verdict.SAME, scenario=each.scenario + "x" * (n > 3)
            )
            for n, each in enumerate(other.results)
        ),
    )
    for name, each in (("a", one), ("b", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes(dumps(each))
    assert dmsnap("compare", "a", "b").exit_code == 1
    assert dmsnap("compare", "a", "b:none").exit_code == 2
    assert dmsnap("compare", "a", EVIL.replace("\0", "")).exit_code == 2


def test_replay(dmsnap: Any, tmp_path: Path) -> None:
    head = {"dmsnap-trace": 1, "scenario": "\u202ea ##vso[x]", "about": "\u2066"}
    cases: list[list[dict[str, Any]]] = [
        [head, {"do": "image", "device": "d"}],
        [head | {"scenario": EVIL}],
        [head | {EVIL: 1}],
        [head, {"do": EVIL}],
        [head, {"do": "disk", "name": "d", "sectors": 8, "fill": EVIL}],
        [head, {"do": "message", "name": "s", "text": EVIL}],
        [head | {"not_compared": [{"layer": EVIL, "reason": "x"}]}],
        [
            head,
            *(
                {
                    "do": word,
                    "name": "s",
                    "table": [{"start": 0, "length": 8, "type": "thin", "args": ""}],
                }
                for word in ("load",)
            ),
        ],
    ]
    for number, lines in enumerate(cases):
        file = tmp_path / f"{number}.trace"
        file.write_text(
            "".join(json.dumps(line, ensure_ascii=number % 2 == 0) + "\n" for line in lines)
        )
        dmsnap("replay", "--on", "twin", file)
        dmsnap("replay", file)
    (tmp_path / "raw").write_bytes(b"\x1b[2J::error::\xff")
    assert dmsnap("replay", tmp_path / "raw").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("run", EVIL),
        ("list", EVIL),
        ("trace", EVIL),
        (EVIL,),
        ("run", "--kernel", EVIL),
        ("run", f"--{EVIL}"),
        ("run", "--seed", EVIL),
        ("replay", EVIL),
        ("kernels", "fetch", EVIL),
        ("lvm", EVIL),
        ("run", "--report", f"/dev/null/{EVIL}"),
    ],
)
def test_what_a_user_pastes(dmsnap: Any, words: tuple[str, ...]) -> None:
    assert dmsnap(*(word.replace("\0", "") for word in words)).exit_code == 2


def test_lists(dmsnap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "harness.scenarios.registry.by_theme",
        lambda: [(EVIL, [SimpleNamespace(name=EVIL, about=EVIL, rows=(EVIL,), loses_guest=True)])],
    )
    assert "owned" in dmsnap("list", "--rows").stdout


def test_kernels_doctor_preflight_and_lvm(
    dmsnap: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = catalogue.Manifest(
        name=EVIL,
        home="",
        suite=EVIL,
        package=EVIL,
        version=EVIL,
        release=EVIL,
        fetched_at=EVIL,
        package_sha256="",
        program_sha256="",
        expired=True,
    )
    kernel = catalogue.Kernel("uml-6.12", tmp_path, tmp_path, record)
    monkeypatch.setattr(catalogue, "find", lambda _name: kernel)
    assert "owned" in dmsnap("kernels").stdout
    found = harness.guest.doctor.Finding(EVIL, False, EVIL, EVIL)
    monkeypatch.setattr(harness.guest.doctor, "examine", lambda: [found])
    monkeypatch.setattr(
        harness.guest.doctor,
        "boot_all",
        lambda note: note(EVIL) or [harness.guest.doctor.Booted(EVIL, False, EVIL)],
    )
    done = dmsnap("doctor")
    assert "owned" in done.stdout
    assert "owned" in done.stderr
    named = msgspec.structs.replace(record)
    monkeypatch.setattr(
        "harness.cli.measure.chosen_kernels",
        lambda *_, **__: [catalogue.Kernel(EVIL, tmp_path, tmp_path, named)],
    )
    monkeypatch.setattr(harness.measure.preflight, "of_guest", lambda _kernel: [found])
    assert "owned" in dmsnap("preflight").stdout
    monkeypatch.setattr("harness.cli.lvm.chosen_kernels", lambda *_, **__: [kernel])
    monkeypatch.setattr(harness.lvm.enact, "check_installed", lambda: None)
    monkeypatch.setattr(harness.lvm.enact, "run", lambda *_, **__: (EVIL, []))
    monkeypatch.setattr(harness.lvm.enact, "table", lambda *_: [EVIL])
    assert "owned" in dmsnap("lvm").stdout
