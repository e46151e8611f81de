"""LVM2 as the user of the snapshot targets."""
