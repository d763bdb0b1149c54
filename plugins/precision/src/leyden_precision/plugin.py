"""What leyden-precision brings to Leyden: the number formats by name, and their classes."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The formats; a class that has several answers to its own name with the first of them."""
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
