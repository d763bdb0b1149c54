"""Metrics as CSV files for Leyden; users import the logger from ``leyden.loggers``."""
