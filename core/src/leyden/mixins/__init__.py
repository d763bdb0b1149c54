"""What modules and data modules are made of: hooks, hyperparameters, loading from checkpoints, export."""
