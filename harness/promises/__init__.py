"""The documentation's promises, checked without the twin."""
