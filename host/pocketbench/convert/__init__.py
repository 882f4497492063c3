"""Conversion of networks to files that runtimes read. torch is imported inside functions only."""
