"""Floor 0: what things are, and where they lie. No torch, no pandas."""
