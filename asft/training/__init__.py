"""The fine-tune itself."""
