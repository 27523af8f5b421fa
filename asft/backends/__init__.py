"""What runs a model when it answers: transformers (``hf``) or vLLM; docs/backends.md."""
