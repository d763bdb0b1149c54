"""Profilers for Leyden; users import them from ``leyden.profilers``."""
