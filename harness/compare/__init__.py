"""Two sides compared, and where they differ."""
