"""One table in each format."""
