"""The alignment direction: streamed from two checkpoints, cached, inspected, and penalised in training."""
