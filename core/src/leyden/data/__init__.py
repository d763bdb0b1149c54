"""From the user's loaders to batches on the device."""
