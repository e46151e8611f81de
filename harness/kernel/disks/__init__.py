"""Disks of a guest: in memory, in files, network block devices, and links that go down."""
