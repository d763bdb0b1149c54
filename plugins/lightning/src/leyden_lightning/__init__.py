"""For those who come from Lightning: its module paths in Leyden, and checkpoints that either reads."""
