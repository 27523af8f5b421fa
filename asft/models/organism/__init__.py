"""The embedded pair, trained from scratch on first use."""
