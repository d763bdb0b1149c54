"""A callback for Leyden that logs percentiles of gradient norms; import it from ``leyden.callbacks``."""
