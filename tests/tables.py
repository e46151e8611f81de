"""What tables of exceptions hold, for the tests: the twin itself only looks things up."""

from harness.twin.exceptions.lists import ExceptionLists
from harness.twin.exceptions.table import ExceptionTable


def records(table: ExceptionTable | ExceptionLists) -> list[tuple[int, int, int]]:
    """Runs as (old chunk, new chunk, further chunks), slot by slot in the order of the lists."""
    if isinstance(table, ExceptionTable):
        if table._lists is None:
            return table._in_list_order()
        table = table._lists
    return [
        (run.old, run.new, run.extra) for _, slot in sorted(table._slots.items()) for run in slot
    ]


def pairs(table: ExceptionTable | ExceptionLists) -> list[tuple[int, int]]:
    """Every (old chunk, new chunk), in that order."""
    return [
        (old + further, new + further)
        for old, new, extra in records(table)
        for further in range(extra + 1)
    ]
