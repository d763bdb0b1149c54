"""A logger for Leyden that writes to an SQLite database: ``Trainer(logger="sqlite")``."""
