"""Functions that users call beside a run; import them from ``leyden.utilities``."""
