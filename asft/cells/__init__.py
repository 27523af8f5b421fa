"""What can be chosen becomes a checked, typed cell with its keys."""
