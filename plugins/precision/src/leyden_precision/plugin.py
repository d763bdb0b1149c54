"""The plugin's hooks: the precisions, by name and by class."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the precisions. The name of a class with several precisions means the first of them."""
    mixed, half = "leyden_precision.mixed:MixedPrecision", "leyden_precision.true:HalfPrecision"
    for name, target, aliases in (
        ("16-mixed", mixed, ["16", "MixedPrecision"]),
        ("bf16-mixed", mixed, ["bf16"]),
        ("16-true", half, ["HalfPrecision"]),
        ("bf16-true", half, []),
    ):
        yield Component("precision", name, target, {"aliases": aliases, "arguments": {"precision": name}})
    yield Component(
        "precision", "64-true", "leyden_precision.true:DoublePrecision", {"aliases": ["64", "DoublePrecision"]}
    )
