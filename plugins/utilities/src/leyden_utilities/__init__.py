"""Helper functions for users, who import them from ``leyden.utilities``."""
