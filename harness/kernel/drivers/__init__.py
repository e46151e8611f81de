"""Two ways to drive device-mapper, behind one protocol."""
