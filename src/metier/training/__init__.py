"""Floor 2: the one loop, its methods, its checkpoints."""
