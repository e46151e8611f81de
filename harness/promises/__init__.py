"""What the documentation promises, checked without knowing the twin."""
