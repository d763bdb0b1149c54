"""Quux for Leyden; users import it from the modules of ``leyden``, such as ``leyden.callbacks``."""
