"""What an experiment will take before it is launched: trainings, tokens, memory, hours, downloads and disk."""
