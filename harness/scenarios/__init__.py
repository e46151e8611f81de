"""The catalogue of scenarios, one module for each theme."""
