"""Nights: what a suite measured, what changed since the nights before, and what of it is red."""
