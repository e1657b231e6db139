"""Coverage-guided fuzzing: every function that takes bytes from a remote peer is a target in `targets.py`."""
