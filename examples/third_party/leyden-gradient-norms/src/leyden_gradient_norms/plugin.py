"""What leyden-gradient-norms brings to Leyden."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The callback, by the name of its class."""
    target = "leyden_gradient_norms.callback:GradientNormPercentiles"
    yield Component("callback", "GradientNormPercentiles", target)
