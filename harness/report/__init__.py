"""What a run says: to the terminal, to CI (JUnit, KTAP), and to whoever reads results.json."""
