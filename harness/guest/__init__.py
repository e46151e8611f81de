"""What runs outside a guest: where kernels come from, and how guests start, work and end."""
