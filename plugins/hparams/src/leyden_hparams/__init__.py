"""Makes modules and data modules from checkpoints, as they were when they were saved."""
