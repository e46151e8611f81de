"""A run, or two beside each other, as one HTML file that people look at."""
