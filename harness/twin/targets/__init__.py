"""Targets other than the snapshots, a module for each of the kernel's."""
