"""Bringing kernels here: packages, images, modules."""
