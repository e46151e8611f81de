"""The command ``dmsnap``: one module for each family of commands."""
