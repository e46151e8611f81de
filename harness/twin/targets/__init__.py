"""Targets beside the snapshots, a module for each of the kernel's."""
