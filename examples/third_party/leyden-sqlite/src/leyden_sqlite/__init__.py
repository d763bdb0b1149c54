"""Metrics and hyperparameters in an SQLite database, as a logger of Leyden: ``Trainer(logger="sqlite")``."""
