"""Every test that exists elsewhere is covered here, or has a reason; the page says so."""

from pathlib import Path

from harness.measure.rows import SECTIONS, all_rows, answers, page
from harness.scenarios.registry import catalogue

PAGE = Path(__file__).parents[2] / "docs" / "ROWS.md"
DMTEST_ROWS = 73


def test_the_page_is_what_the_generator_prints() -> None:
    assert PAGE.read_text() == page(), "python -m harness.measure.rows > docs/ROWS.md"


def test_every_row_is_answered_or_says_why_not() -> None:
    found = answers()
    assert [name for name, row in all_rows().items() if not found[name] and not row.beyond] == []


def test_scenarios_answer_rows_that_exist() -> None:
    rows = all_rows()
    assert {
        (entry.name, name)
        for entry in catalogue().values()
        for name in entry.rows
        if name not in rows
    } == set()


def test_a_row_is_named_once_and_says_what_it_tests() -> None:
    listed = [row for section in SECTIONS.values() for row in section]
    assert len(listed) == len(all_rows())
    assert all(row.tests and "|" not in row.tests + row.beyond for row in listed)
    assert all(not row.beyond or row.beyond.endswith(".") for row in listed)
    assert sum(row.name.startswith("dmtest: ") for row in listed) == DMTEST_ROWS


def test_reasons_name_real_scenarios() -> None:
    bases = {name.partition("[")[0] for name in catalogue()}
    words = {word for row in all_rows().values() for word in row.beyond.split("`")[1::2]}
    assert {word for word in words if word.isidentifier()} <= bases
