"""What a run is: plan, run, replay, and this machine as the guest."""
