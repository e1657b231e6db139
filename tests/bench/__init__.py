"""Measurements beside other implementations; run by `scripts/bench`, never a test (but `test_steps.py` is one)."""
