"""TensorBoard logs for Leyden; users import the logger from ``leyden.loggers``."""
