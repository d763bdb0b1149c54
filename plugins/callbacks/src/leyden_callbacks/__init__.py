"""Callbacks for Leyden; users import them from ``leyden.callbacks``."""
