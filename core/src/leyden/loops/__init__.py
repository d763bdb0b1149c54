"""The loops, to be read downwards: fit (epochs and batches), step (one batch), evaluate (all else)."""
