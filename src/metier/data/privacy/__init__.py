"""De-identification: which characters of a text identify people, by our own rules, and how well that is known.

`engine.detect` finds spans; `kinds` says what for which profile; `evaluation` measures it on a labelled set.
"""
