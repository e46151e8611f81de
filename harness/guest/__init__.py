"""The host side of guests: where kernels come from, and how guests start, work and end."""
