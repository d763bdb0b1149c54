"""What a run shows while it goes: progress bars and the model summary."""
