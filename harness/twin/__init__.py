"""The userspace twin: device-mapper's snapshot targets as a discrete-event simulation.

Single-threaded, with integer time, no wall clock and no randomness: a rerun gives the same
observations.  Its structure follows the kernel's (dm.c, dm-table.c, dm-ioctl.c, dm-snap*.c,
dm-kcopyd.c), so that a reader of one finds their way in the other.

Two rules say how waiting is modelled.  Code that the kernel runs in a process (an ioctl, a
constructor) waits by running the simulation until the awaited event has happened
(`Clock.wait_until`).  Code that the kernel runs for a bio or in a worker never waits: it leaves a
continuation and returns.
"""
