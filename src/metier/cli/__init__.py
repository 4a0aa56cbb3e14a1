"""Floor 4: the command line. It shows what actions and core say, and nothing else."""
