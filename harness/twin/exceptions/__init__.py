"""Exceptions in memory: the table, its lists, and runs as they were loaded."""
