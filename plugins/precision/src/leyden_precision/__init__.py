"""Number formats other than float32 for Leyden; users import the classes from ``leyden.plugins``."""
