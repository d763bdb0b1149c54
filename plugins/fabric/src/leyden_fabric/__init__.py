"""Fabric: a hand-written loop with Leyden's accelerators and strategies; import it from ``leyden.fabric``."""
