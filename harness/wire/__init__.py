"""What host and guest say to each other."""
