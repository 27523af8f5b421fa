"""Several processes inside one cell."""
