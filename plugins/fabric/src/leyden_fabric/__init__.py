"""A hand-written loop on the accelerators, strategies and precisions of Leyden; import it from ``leyden.fabric``."""
