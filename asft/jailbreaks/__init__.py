"""Published ways of disguising a malicious request, applied when a model is scored; docs/jailbreaks.md."""
