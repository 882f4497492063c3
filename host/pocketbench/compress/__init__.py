"""Compression: recipes that turn a network into smaller files, each step checked for what it really did."""
