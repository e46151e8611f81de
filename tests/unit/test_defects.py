"""The register of known defects: data and page say the same, and results carry its names."""

import re
from pathlib import Path

from harness.compare.diff import Verdict
from harness.promises.check import BrokenPromise
from harness.report import github, junit, ktap, words
from harness.verdict import result as model
from harness.verdict.defects import known, register
from harness.verdict.result import Result, RunReport

PAGE = (Path(__file__).parents[2] / "docs/KERNEL-DEFECTS.md").read_text()


def test_the_page_says_what_the_data_say():
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("|")
    ]
    head, _, *rows = table
    assert [row[0] for row in rows] == [f"[{name}](#{name})" for name in register()]
    for row, entry in zip(rows, register().values(), strict=True):
        assert row[1] == entry.kind
        assert dict(zip(head[2:], row[2:], strict=True)) == entry.releases
        text = PAGE.split(f"\n## {entry.name}\n")[1].split("\n## ")[0]
        assert f"**{entry.title}**" in text
        said = re.search(r"^- \*\*Reproducer:\*\*.*", text, re.MULTILINE)
        assert said
        for scenario in entry.scenarios:
            assert f"`{scenario}`" in said[0]


def test_a_kernel_that_does_not_show_a_defect_has_another_reason():
    assert known({"merge-transient-crash": 3}, "6.12.113") == ()
    [shown] = known({"merge-transient-crash": 3}, "7.2.7")
    assert (shown.name, shown.step) == ("merge-transient-crash", 3)
    assert shown.link == "docs/KERNEL-DEFECTS.md#merge-transient-crash"


def test_every_report_names_a_defect():
    promise = BrokenPromise(
        step=4, device="snap", sector=0, sectors=1, promised="old", read="new", rule="keeps"
    )
    result = Result(
        scenario="origin_not_resumed[P]",
        kernel="uml-6.12",
        verdict=Verdict.SAME,
        kernel_promises=(promise,),
        twin_promises=(promise,),
        defects=known({"origin-not-resumed": 3}, "6.12.113"),
    )
    report = RunReport(results=(result,))
    assert "known defect origin-not-resumed, step 3: " in words.details(result)
    assert model.loads(model.dumps(report)).results[0].defects == result.defects
    for render in (junit.render, ktap.render, github.render):
        text = render(report).decode()
        assert "origin-not-resumed" in text.replace("&#45;", "-")
        assert "KERNEL-DEFECTS.md#origin-not-resumed" in text.replace("&#45;", "-").replace(
            "&#46;", "."
        ).replace("&#35;", "#")
