"""The plugin's hooks: the callback."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the callback, under the name of its class."""
    target = "leyden_gradient_norms.callback:GradientNormPercentiles"
    yield Component("callback", "GradientNormPercentiles", target)
