"""Is a fine-tune still safe, and what is the cheapest repair? Knows a model, prompts and a task; nothing of cells."""
