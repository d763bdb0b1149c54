"""Quux for Leyden; users import its parts from the modules of `leyden`."""
