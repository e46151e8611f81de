"""Plans of faults: one that never fires changes nothing, and counting is what it says."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.scenarios.registry import catalogue
from harness.trace.faults import FaultPlan, Op
from harness.trace.steps import AnyStep, Disk, Fault, Heal
from harness.twin import explore
from harness.twin.profile import PROFILES, named

NEVER = 1 << 31
OPS: tuple[Op, ...] = ("read", "write", "flush", "discard")
FAULTY = [entry for entry in catalogue().values() if "faults" in entry.theme]
FAULTS = st.lists(
    st.tuples(
        st.sampled_from(OPS),
        st.integers(0, 20),
        st.integers(1, 20),
        st.integers(1, 6),
        st.integers(0, 3),
    ),
    max_size=3,
)
REQUESTS = st.lists(
    st.tuples(st.sampled_from(OPS), st.integers(0, 30), st.integers(1, 12)), max_size=30
)


@given(st.sampled_from(FAULTY), st.data())
def test_a_plan_that_never_fires_changes_nothing(entry, data):
    profile = named(data.draw(st.sampled_from(sorted(PROFILES))))
    trace = entry.trace()
    # Faults of the scenario itself stay; others are added that count and never strike.
    plain = [step for step in trace.steps if not isinstance(step, Heal)]
    planned: list[AnyStep] = []
    for step in plain:
        planned.append(step)
        if isinstance(step, Disk) and step.can_fail:
            planned += [Fault(device=step.name, op=op, nth=NEVER) for op in OPS]
    seen = explore.run(plain, 1, profile)
    added = [
        index for index, step in enumerate(planned) if isinstance(step, Fault) and step.nth == NEVER
    ]
    other = [
        observation
        for observation in explore.run(planned, 1, profile)
        if observation.step not in added
    ]
    assert [replace(one, step=0, elapsed_us=0) for one in seen] == [
        replace(one, step=0, elapsed_us=0) for one in other
    ]


@given(FAULTS, REQUESTS)
def test_counting(faults, requests):
    plan = FaultPlan()
    for op, sector, sectors, nth, count in faults:
        plan.add(op, sector, sectors, nth=nth, count=count)
    struck = [plan.strikes(*request) == "error" for request in requests]
    wanted = [False] * len(requests)
    for op, sector, sectors, nth, count in faults:
        matching = [
            index
            for index, (kind, first, length) in enumerate(requests)
            if kind == op
            and (
                op == "flush"
                or set(range(first, first + length)) & set(range(sector, sector + sectors))
            )
        ]
        for index in matching[nth - 1 : nth - 1 + count if count else None]:
            wanted[index] = True
    assert struck == wanted
