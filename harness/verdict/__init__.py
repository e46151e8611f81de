"""The outcome of a scenario: the judge, and its result as data."""
