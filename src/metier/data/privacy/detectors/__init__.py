"""The detectors, one file per family of rules; each has `find(text) -> Iterator[Span]` and no state."""
