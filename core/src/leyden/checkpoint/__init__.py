"""Checkpoints: what one holds, and the file that it is written to."""
