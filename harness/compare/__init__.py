"""Two sides held against each other, and where they differ."""
