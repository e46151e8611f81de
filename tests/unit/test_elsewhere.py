"""Scenarios and traces that live outside the repository."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.errors import BadScenario
from harness.scenarios import registry
from harness.scenarios.elsewhere import chosen, is_place
from harness.trace import files
from harness.verdict.foresight import place

OWN = '''"""Scenarios of somebody's own."""
from harness.scenarios.registry import scenario


@scenario(store=("P", "N"))
def nightly(s, store):
    """A backup of a volume with a long name."""
    s.disk("base", 64, stamped=True)
    s.call("base", "vg00-a_volume_with_a_long_name-real")
    s.disk("cow", 128)
    s.snapshot("snap", "base", "cow", store, 8)
    s.read("snap", 0, 16)
'''


@pytest.fixture(autouse=True)
def _own_catalogue(monkeypatch):
    monkeypatch.setattr(registry, "_scenarios", dict(registry.catalogue()))


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def names(*words, paths=()):
    return [trace.header.scenario for trace in chosen(words, [str(path) for path in paths])]


def test_a_python_file_is_part_of_the_catalogue(own):
    assert names(paths=[own]) == ["nightly[P]", "nightly[N]"]
    assert names("nightly[N]", "bring_up[P]") == ["bring_up[P]", "nightly[N]"]


def test_a_directory_holds_python_files_and_traces(own, tmp_path):
    [trace] = chosen(["bring_up[P]"])
    for name in ("one", "two"):
        files.write(tmp_path / f"{name}.jsonl", trace)
    told_apart = ["bring_up[P] (one.jsonl)", "bring_up[P] (two.jsonl)"]
    assert names(paths=[tmp_path]) == ["nightly[P]", "nightly[N]", *told_apart]
    assert own.exists()


def test_a_directory_that_is_no_option_is_data(own, tmp_path):
    """Python files there are not run, whatever is in them."""
    own.write_text("raise SystemExit(77)")
    files.write(tmp_path / "one.jsonl", chosen(["bring_up[P]"])[0])
    assert names(str(tmp_path)) == ["bring_up[P]"]
    assert is_place(str(tmp_path / "x.jsonl"))
    assert not is_place("bring_up")


def test_a_step_is_on_a_line_of_its_file(own):
    [trace, _] = chosen([], [str(own)])
    assert place(trace, 4) == f"step 4 (resume snap), line 11 of {own}"
    assert trace.header.names == {"base": "vg00-a_volume_with_a_long_name-real"}
    assert files.loads(files.dumps(trace)).header == trace.header


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nosuch_module", r"own.py:1: ModuleNotFoundError: No module named"),
        ("x = (", r"own.py:1: SyntaxError"),
        ("x = 1", r"own.py holds no scenario"),
        (
            OWN.replace('    """A backup of a volume with a long name."""\n', ""),
            "needs a docstring",
        ),
        (OWN.replace("nightly", "bring_up"), r"two scenarios are named bring_up\[P\]"),
        (
            OWN.replace('"base", "cow", store', '"nobody", "cow", store'),
            r"scenario nightly\[P\], step 2, .*own.py:11: the size of nobody is not known",
        ),
        (OWN.replace("64, stamped", "-1, stamped"), r"nightly\[P\] \(.*own.py:8\), step 0, line"),
        (OWN.replace("s.read(", "1 / 0, s.read("), r"step 5, .*own.py:12: ZeroDivisionError"),
    ],
)
def test_an_error_names_file_line_and_step(own, text, said):
    own.write_text(text)
    with pytest.raises(BadScenario, match=said):
        chosen([], [str(own)])


def test_a_trace_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"dmsnap-trace":1,"scenario":"x"}\n{"do":"disk"}\n')
    with pytest.raises(BadScenario, match=r"bad.jsonl: step 0, line 2, field"):
        names(str(tmp_path))
    with pytest.raises(BadScenario, match="neither a file, a directory, nor a package"):
        names(paths=["nosuch"])


def test_names_that_were_mistyped_are_suggested():
    with pytest.raises(BadScenario, match=r"did you mean bring_up\?"):
        names("bring_upp")
    with pytest.raises(BadScenario, match=r"bring_up has these variants: bring_up\[P\], bring"):
        names("bring_up[X]")


def test_several_traces_are_written_and_replayed(tmp_path):
    typed = CliRunner().invoke(main, ["trace", "bring_up", "--output", str(tmp_path / "t")])
    assert typed.exit_code == 0, typed.output
    written = sorted((tmp_path / "t").glob("*.jsonl"))
    assert [path.name for path in written] == [
        f"bring_up-{store}.jsonl" for store in ("N", "P", "PO")
    ]
    out = tmp_path / "out"
    done = CliRunner().invoke(
        main, ["replay", *map(str, written), "--on", "twin", "--output", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "01-bring_up-N",
        "02-bring_up-P",
        "03-bring_up-PO",
    ]


def test_no_two_names_share_a_file():
    listed = [*registry.catalogue(), "bring_up-P", "bring_up[P", "bring up[P]", "../x", "..x", "x"]
    found = [files.file_name(name) for name in listed]
    assert len(set(found)) == len(found)
    assert all("/" not in name and not name.startswith(".") for name in found)


def test_list_for_programs():
    done = CliRunner().invoke(main, ["list", "--names", "bring_up"])
    assert done.stdout == "bring_up[P]\nbring_up[PO]\nbring_up[N]\n"
    listed = msgspec.json.decode(CliRunner().invoke(main, ["list", "--json", "bring_up"]).stdout)
    assert [entry["name"] for entry in listed] == ["bring_up[P]", "bring_up[PO]", "bring_up[N]"]
    assert isinstance(Path(listed[0]["file"]), Path)


@pytest.mark.parametrize(
    ("words", "begun", "found"),
    [
        ("dmsnap run", "bring_up[P", ["bring_up[P]", "bring_up[PO]"]),
        ("dmsnap run --kernel", "uml-6.1", ["uml-6.1", "uml-6.12"]),
        ("dmsnap", "repl", ["replay"]),
    ],
)
def test_a_shell_completes(words, begun, found):
    done = CliRunner().invoke(
        main,
        [],
        prog_name="dmsnap",
        env={
            "_DMSNAP_COMPLETE": "zsh_complete",
            "COMP_WORDS": f"{words} {begun}",
            "COMP_CWORD": str(len(words.split())),
        },
    )
    lines = done.output.splitlines()
    assert [line for line in lines if line.startswith(begun)] == found
