"""The accelerators that installed plugins bring, by class name, and the functions that come with them."""

from leyden.interfaces.accelerator import Accelerator
from leyden.windows import window

__all__ = ["Accelerator"]

__getattr__, __dir__ = window(
    __name__,
    (
        "accelerator",
        "utility",
    ),
    dict.fromkeys(__all__),
)
