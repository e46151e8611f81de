"""Finding what nobody wrote down: random lives, the shortest trace of a find, and its report."""
