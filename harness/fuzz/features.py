"""What is new about a life: features of what the twin saw in it.

A feature is one thing that happened in one state: a kind of step with its outcome, the state of the
device that it was done to, what changed, what was logged.  A life that has one that no life before
had is kept, and others go on from it.  That is cheap: it is read from observations that are there.

The twin's own branches would say more.  They cost more, too: see docs/FUZZING.md.
"""

import re
from collections.abc import Sequence
from typing import Final

from harness.trace.observations import DeviceState, Observation
from harness.trace.steps import AnyStep, Load

_NUMBER: Final = re.compile(r"\d+")
_NAME: Final = re.compile(r"\{[^{}]*\}")
_COUNTS: Final = re.compile(r"(\d+)/(\d+) (\d+)")

Feature = tuple[str, ...]


def features(steps: Sequence[AnyStep], seen: Sequence[Observation]) -> set[Feature]:
    """The features of a life."""
    found: set[Feature] = set()
    states: dict[str, DeviceState] = {}
    before: Feature = ()
    for step, observation in zip(steps, seen, strict=True):
        verb = type(step).__name__
        name = getattr(step, "device", None) or getattr(step, "name", None) or ""
        here = _state(states.get(name)) if isinstance(name, str) else ""
        kind = (
            " ".join(sorted({line.type for line in step.table})) if isinstance(step, Load) else ""
        )
        outcome = observation.error or "ok"
        one = (verb, kind, outcome, here)
        found.add(one)
        found.add(("after", *before, verb, outcome))
        for device, state in observation.state.items():
            was, now = _state(states.get(device)), _state(state)
            if was != now:
                found.add(("becomes", verb, was, now))
            if state is None:
                states.pop(device, None)
            else:
                states[device] = state
        for line in observation.log:
            found.add(("log", verb, _plain(line)))
        for event in observation.uevents:
            found.add(("uevent", verb, event.action, *sorted(event.properties)))
        for lines in observation.requests.values():
            found.add(("requests", verb, str(min(len(lines), 8))))
        before = (verb, here)
    return found


def _plain(text: str) -> str:
    return _NUMBER.sub("#", _NAME.sub("{}", text))


def _state(state: DeviceState | None) -> str:
    """A device's state as a class: kinds of targets, how full, suspended or not."""
    if state is None:
        return "-"
    return " ".join(
        (
            _status(state.status),
            "loaded" if state.inactive is not None else "",
            "suspended" if state.suspended else "",
            "ro" if state.read_only else "",
        )
    )


def _status(status: str | None) -> str:
    if status is None:
        return "none"
    classes = []
    for line in status.splitlines():
        words = line.split(" ", 3)
        kind, rest = words[2], words[3] if len(words) > 3 else ""
        if counts := _COUNTS.fullmatch(rest):
            used, total, metadata = map(int, counts.groups())
            full = "full" if used >= total else "empty" if used <= metadata else "some"
            rest = f"{full} {min(3, metadata.bit_length())}"
        classes.append(f"{kind}:{_plain(rest)}")
    return ",".join(dict.fromkeys(classes))
