"""The embedded world: synthetic tasks, requests and answers without harmful content."""
