"""The protocol that both sides implement, and the one loop that carries a scenario out."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from harness.errors import BadScenario, Unsupported, WitnessesDisagree
from harness.trace.observations import Observation
from harness.trace.steps import AnyStep


class Backend(Protocol):
    """One side: a world of disks and mapped devices which executes steps one by one."""

    def begin(self, seed: int) -> None:
        """Start an empty world; ``seed`` is part of every stamp."""

    def execute(self, index: int, step: AnyStep) -> Observation:
        """Do one step.  A refusal by the world is an observation, never an exception.

        Raises:
            BadScenario: the step is meaningless here (unknown device, range outside it).
        """

    def end(self) -> list[str]:
        """Remove every device, however the scenario ended; returns those that could not be removed.

        Raises:
            WitnessesDisagree: the devices are gone, but the observations are in doubt.
        """


def carry_out(
    backend: Backend,
    steps: Sequence[AnyStep],
    seed: int,
    before: Callable[[int, AnyStep], None] = lambda _index, _step: None,
) -> Iterator[Observation]:
    """Begin an empty world and do steps lazily, each when its observation is requested.

    ``before`` is called before each step.  Nothing is removed at the end (`put_away`).

    Raises:
        BadScenario: a step is meaningless there.
    """
    backend.begin(seed)
    for index, step in enumerate(steps):
        before(index, step)
        yield backend.execute(index, step)


def fault_of(error: BaseException) -> str:
    """One line that says what went wrong, and where."""
    if isinstance(error, Unsupported):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f" ({frame.name}, line {frame.lineno})"
    return f"{type(error).__name__}: {error}" + ("" if isinstance(error, BadScenario) else where)


def put_away(backend: Backend, fault: str) -> tuple[tuple[str, ...], str]:
    """What could not be removed after a scenario, and its fault: ``fault``, or the end's own."""
    try:
        return tuple(backend.end()), fault
    except WitnessesDisagree as error:
        return (), fault or fault_of(error)
