"""Floor 2: what may be done, and who decided it."""
