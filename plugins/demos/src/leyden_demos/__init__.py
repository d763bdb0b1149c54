"""Small models and datasets to try things with; users import them from ``leyden.demos``."""
