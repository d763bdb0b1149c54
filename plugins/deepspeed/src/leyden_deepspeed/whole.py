"""The module that DeepSpeed's engine trains, and making the user's module whole again afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter


class EngineModule(Module):
    """The module that the engine is given: it has the submodules of the user's module, and its forward runs a step.

    The submodules belong to it directly, and not to a child, so that parameters keep their names in checkpoints.
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
    """Whether this process has only a part of the parameters."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def whole_values(deepspeed: Any, module: Module) -> dict[str, Tensor]:
    """Whole copies of all parameters on the host, in 32 bits where DeepSpeed has them; called by all processes.

    Args:
        deepspeed: The package.
        module: A module that an engine trains.

    Returns:
        The values by parameter name.
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
    """Makes a module whole after training, and keeps its parameters of the engine for later; made by all processes.

    Args:
        deepspeed: The package.
        module: The module, which gets whole parameters.
        engine_module: The module that the engine was given.
        dtypes: The formats that the parameters had before training, by name.
    """

    def __init__(self, deepspeed: Any, module: Module, engine_module: Module, dtypes: dict[str, torch.dtype]) -> None:
        whole: dict[int, Parameter] = {}
        values = whole_values(deepspeed, module)
        for name, parameter in module.named_parameters():
            whole[id(parameter)] = Parameter(values.pop(name).to(dtypes[name]), parameter.requires_grad)
        self._others: list[tuple[Module, Any]] = []
        for part in (*module.modules(), engine_module):
            self._others.append((part, part._parameters))
            part._parameters = {
                name: whole[id(parameter)] if parameter is not None else None
                for name, parameter in part._parameters.items()
            }

    def exchange(self) -> None:
        """Exchange the whole parameters and those of the engine; a second call undoes the first."""
        self._others = [(part, self._take(part, parameters)) for part, parameters in self._others]

    @staticmethod
    def _take(part: Module, parameters: Any) -> Any:
        before, part._parameters = part._parameters, parameters
        return before
