"""16-bit, mixed and double precision for Leyden; users import the classes from ``leyden.plugins``."""
