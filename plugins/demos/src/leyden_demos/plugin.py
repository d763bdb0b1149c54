"""The plugin's hooks: models and data modules for ``leyden.demos``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the classes that are used most; all others are in ``leyden_demos.boring_classes`` only."""
    for name in ("BoringDataModule", "BoringModel", "DemoModel"):
        yield Component("demo", name, f"leyden_demos.boring_classes:{name}")
