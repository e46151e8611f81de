"""From kernel source to what a guest boots."""
