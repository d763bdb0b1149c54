"""The ``Tuner`` that an installed plugin brings."""

from leyden.windows import window

__getattr__, __dir__ = window(__name__, ("tuner",), ())
