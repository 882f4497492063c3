"""`bench devices`: what devices there are, what they are like, and whether they are fit to be measured."""
