"""What leyden-demos brings to Leyden: models and data, shown by ``leyden.demos``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Those that are used most; the others stand beside them, in ``leyden_demos.boring_classes``."""
    for name in ("BoringDataModule", "BoringModel", "DemoModel"):
        yield Component("demo", name, f"leyden_demos.boring_classes:{name}")
