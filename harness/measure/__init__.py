"""Measurements over many scenarios: speed, coverage, copy jobs, other suites, fitness."""
