"""Percentiles of gradient norms as a callback of Leyden: ``from leyden.callbacks import GradientNormPercentiles``."""
