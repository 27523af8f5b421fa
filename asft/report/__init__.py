"""Tables beside the paper's: what was measured, how sure it is, and whether it shows anything."""
