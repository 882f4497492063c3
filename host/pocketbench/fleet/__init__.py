"""Devices at work: a lane each, its cases in rounds, and whatever is done to a device around its jobs."""
