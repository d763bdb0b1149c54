"""A module under DeepSpeed's engine, and the same module whole again after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter


class Shadow(Module):
    """What the engine takes for the model: a module's own parts, whose forward is one of its steps.

    The parts are the module's and not a child's, so that they have the same names in checkpoints.
    """

    def __init__(self, module: Module) -> None:
        super().__init__()
        self._parameters, self._buffers = module._parameters, module._buffers
        self._modules = module._modules
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        self.__dict__["target"] = module

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Run the step ``name``."""
        return getattr(self.__dict__["target"], name)(*args, **kwargs)


def is_divided(module: Module) -> bool:
    """Whether a process has only its parts of the parameters."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def whole_values(deepspeed: Any, module: Module) -> dict[str, Tensor]:
    """Each parameter whole and in the most bits that there are, on the host; all processes together.

    Args:
        deepspeed: The package.
        module: A module under an engine.
    """
    return {name: _whole(deepspeed, parameter) for name, parameter in module.named_parameters()}


def _whole(deepspeed: Any, parameter: Any) -> Tensor:
    value = None
    is_divided = hasattr(parameter, "ds_id")
    if parameter.dtype != torch.float32 and (not is_divided or hasattr(parameter, "_z3_optimizer")):
        value = deepspeed.utils.safe_get_full_fp32_param(parameter)
    if value is None:
        with deepspeed.zero.GatheredParameters([parameter], enabled=is_divided):
            return parameter.detach().to("cpu", copy=True)  # type: ignore[no-any-return]
    return value.detach().to("cpu", copy=True)  # type: ignore[no-any-return]


class Parts:
    """The parameters that a module had under the engine, while it has whole ones again.

    Args:
        deepspeed: The package.
        module: Becomes whole; all processes together.
        shadow: Its shadow.
        dtypes: The formats of its parameters before the engine took it, by name.
    """

    def __init__(self, deepspeed: Any, module: Module, shadow: Module, dtypes: dict[str, torch.dtype]) -> None:
        whole: dict[int, Parameter] = {}
        values = whole_values(deepspeed, module)
        for name, parameter in module.named_parameters():
            whole[id(parameter)] = Parameter(values.pop(name).to(dtypes[name]), parameter.requires_grad)
        self._others: list[tuple[Module, Any]] = []
        for part in (*module.modules(), shadow):
            self._others.append((part, part._parameters))
            part._parameters = {
                name: whole[id(parameter)] if parameter is not None else None
                for name, parameter in part._parameters.items()
            }

    def exchange(self) -> None:
        """Give the module its parameters under the engine, or take them away again."""
        self._others = [(part, self._take(part, parameters)) for part, parameters in self._others]

    @staticmethod
    def _take(part: Module, parameters: Any) -> Any:
        before, part._parameters = part._parameters, parameters
        return before
