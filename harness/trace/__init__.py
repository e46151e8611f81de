"""The vocabulary: steps, observations, and the files with them."""
