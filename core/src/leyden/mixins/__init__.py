"""Base classes of modules and data modules: hooks, hyperparameters, loading from checkpoints, export."""
