"""Figures of a case from its raw facts, and differences between two: pure functions."""
