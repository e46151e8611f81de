"""The bench: each figure is on disk as soon as it is there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import ProvisioningError
from harness.guest import fallback
from harness.guest.catalogue import Kernel
from harness.guest.fetch import provision
from harness.measure import bench
from harness.measure.bench import Figure


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bench of two figures; what was on disk before each and after the last."""
    file = tmp_path / "out/bench.json"
    seen: list[str | dict[str, object]] = []

    def look() -> None:
        text = file.read_text() if file.exists() else ""
        seen.append(json.loads(text) if text.startswith("{") else text)

    def everything(_kernel: Kernel, sizes: object, book: object, shown: object) -> Iterator[Figure]:
        book.note(release="6.12.1")  # type: ignore[attr-defined]
        shown.part("one", 1)  # type: ignore[attr-defined]
        look()
        yield Figure("one", f"one of {sizes}", {"seconds": 1.5})
        look()
        yield Figure("two", "two", {"seconds": 2.5})
        look()
        if measuring.stop:
            raise measuring.stop

    class Measured:
        """A measurement that may be stopped; its status, and what its file held at each figure."""

        def __init__(self) -> None:
            self.stop: BaseException | None = None
            self.file = file

        def __call__(self, *words: str) -> tuple[int, list[str | dict[str, object]]]:
            status = bench.main([*words, "--output", str(file)])
            look()
            return status, seen

    measuring = Measured()
    monkeypatch.setattr(bench, "_all", everything)
    monkeypatch.setattr(provision, "fetch", lambda name, **_: Kernel(name, tmp_path, tmp_path))
    monkeypatch.setattr(fallback, "prove", lambda *_, **__: "boots")
    return measuring


def test_figures_are_written_as_they_come(measured, capsys: pytest.CaptureFixture[str]) -> None:
    measured.file.parent.mkdir()
    measured.file.write_text("of before")
    status, (first, one, two, whole) = measured("--exceptions", "10000")
    assert status == 0
    assert first == "of before", "there is no figure yet"
    assert (one["kernel"], one["release"], one["whole"]) == ("uml-6.12", "6.12.1", False)
    assert one["figures"] == [
        {"name": "one", "words": "one of [10000]", "values": {"seconds": 1.5}}
    ]
    assert [each["name"] for each in two["figures"]] == ["one", "two"]
    assert whole == two | {"whole": True}
    said = capsys.readouterr()
    assert said.out == f"one of [10000]\ntwo\nfigures: {measured.file}\n"
    assert said.err == "dmsnap: bench: one\n"


@pytest.mark.parametrize(
    ("stop", "status"), [(KeyboardInterrupt(), 130), (ProvisioningError("no guest"), 2)]
)
def test_a_bench_that_is_stopped_has_lost_nothing(
    measured, stop: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    measured.stop = stop
    found, seen = measured()
    assert found == status
    assert [each["name"] for each in seen[-1]["figures"]] == ["one", "two"]
    assert seen[-1]["whole"] is False
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--exceptions", "9999"], "too few"),
        (["--exceptions", "x"], "invalid"),
        (["--kernel", "nosuch"], "no kernel is called 'nosuch'"),
        (["--output", "/dev/null/x"], "is not a directory"),
        (["--kernel", "deb-6.1"], "QEMU is missing"),
    ],
)
def test_what_cannot_be_measured_is_told_first(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise ProvisioningError("QEMU is missing")

    monkeypatch.setattr(provision, "fetch", lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr("harness.guest.qemu.check_installed", missing)
    try:
        status: object = bench.main(words)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert says in capsys.readouterr().err


def test_every_figure_is_a_number_with_its_unit() -> None:
    shown = bench._Shown(Console(quiet=True))
    figures = list(bench.bench_exceptions([100, 200], shown))
    assert [figure.name for figure in figures] == [f"exceptions, {kind}" for kind in bench.KINDS]
    for figure in figures:
        assert all(
            each > 0 and name.endswith(("s", "bytes")) for name, each in figure.values.items()
        )
        assert "largest/smallest" in figure.words
