"""Safety landscapes: directions in weight space, the harmful score along them, and how far a model stays safe."""
