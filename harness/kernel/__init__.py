"""The kernel side: what runs inside a guest, on the real device-mapper.

It may use the vocabulary (`harness.trace.steps`, `harness.trace.pattern`, `harness.wire.journal`)
and knows nothing about the twin or about what starts guests.
"""
