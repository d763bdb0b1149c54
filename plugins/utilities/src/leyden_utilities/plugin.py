"""The plugin's hooks: helper functions, which users find in ``leyden.utilities``."""

from collections.abc import Iterator

from leyden import Component, hookimpl

FUNCTIONS = {
    "find_shared_parameters": "parameter_tying",
    "grad_norm": "grads",
    "is_oom_error": "memory",
    "is_overridden": "model_helpers",
    "measure_flops": "throughput",
    "recursive_detach": "memory",
    "set_shared_parameters": "parameter_tying",
}


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide each function under its name, and what ``LightningDataModule.from_datasets`` calls."""
    yield Component("datamodule_part", "give_loaders", "leyden_utilities.datasets:give_loaders")
    for name, module in FUNCTIONS.items():
        yield Component("utility", name, f"leyden_utilities.{module}:{name}")
