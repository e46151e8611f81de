"""The vocabulary: steps, observations, and the files that hold them."""
