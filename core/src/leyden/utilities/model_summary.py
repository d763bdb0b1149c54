"""``ModelSummary``, wherever the plugin that brings it keeps it."""

from leyden.windows import window

__getattr__, __dir__ = window(__name__, ("utility",), {})
