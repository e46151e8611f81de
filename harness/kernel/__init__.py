"""The kernel side: what runs inside a guest, on the real device-mapper.

It may use the vocabulary (`harness.steps`, `harness.pattern`, `harness.journal`) and knows
nothing of the twin or of what starts guests.
"""
