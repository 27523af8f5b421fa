"""The tasks that a fine-tune learns, one plug-in a file."""
