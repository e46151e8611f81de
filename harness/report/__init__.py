"""Reports of a run: for the terminal, for CI (JUnit, KTAP), and as results.json."""
