"""Models and data to try things with; import them from ``leyden.demos``."""
