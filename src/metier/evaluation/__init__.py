"""Floor 2: the run against its untouched base, on the same held-out rows, with intervals."""
