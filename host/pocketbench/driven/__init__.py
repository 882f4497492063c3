"""Devices that nothing of ours runs on (`python: host`): the agent stays here and drives the vendor's tool."""
