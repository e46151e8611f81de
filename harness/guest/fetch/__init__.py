"""Fetching kernels: packages, images, modules."""
