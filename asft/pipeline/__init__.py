"""How a cell runs, stage by stage."""
