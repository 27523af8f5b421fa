"""What is measured of a model pair besides a cell's two scores: cosines, safety landscapes, perturbation lengths."""
