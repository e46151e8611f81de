"""Runs: plan, run, replay, and this machine as the guest."""
