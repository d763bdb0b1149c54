"""What PyTorch says of divided parameters, said with names: which ones, where, and what to do."""

from __future__ import annotations

import linecache
import re
import traceback
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import Module

from leyden.utilities.exceptions import MisconfigurationException

DIVIDED = ("mixed torch.Tensor and DTensor", "not supported for tensor subclasses")
FREED = "of storage of size 0", "for storage of size 0"


class Use(NamedTuple):
    """Where the user's code used parameters.

    Attributes:
        where: The function, the file and the line, for a sentence.
        line: The line's text; "" where it is not known.
        called: The submodule that was called there; None for a bare parameter.
    """

    where: str
    line: str
    called: Module | None


def explained(error: BaseException, module: Module | None) -> BaseException:
    """The error about divided parameters in words; any other error as it is.

    Args:
        error: What was raised.
        module: The divided module; None where it is not known, so that names are not either.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or isinstance(error, MisconfigurationException):
        return error
    if any(sign in text for sign in FREED):
        return MisconfigurationException(
            f"{_use(error, module).where} needs whole parameters that have been freed since, for a gradient of a "
            "gradient (create_graph=True) or because it has kept a parameter of an earlier step. Write strategy='ddp' "
            "or 'zero_1', under which parameters stay whole."
        )
    if any(sign in text for sign in DIVIDED):
        return MisconfigurationException(_sentence(_use(error, module), module or Module()))
    return error


def _use(error: BaseException, module: Module | None) -> Use:
    """Where the user's code was, and the outermost submodule that it has called from there."""
    parts = set(module.modules()) - {module} if module is not None else set()
    users: FrameType | None = None
    number, called = 0, None
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Module) and owner in parts:
            called = called or owner
        elif not _is_library(frame):
            users, number, called = frame, line, None
    if users is None:
        return Use("A step", "", called)
    code = users.f_code
    text = linecache.getline(code.co_filename, number, users.f_globals)
    return Use(f"{code.co_name} ({Path(code.co_filename).name}:{number})", text, called)


def _is_library(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package == "torch" or (package.startswith("leyden") and package != "leyden_testing")


def _sentence(use: Use, module: Module) -> str:
    """What was used, where it is whole, and what to do."""
    names = {part: name for name, part in module.named_modules()}
    divided = [name for name, parameter in module.named_parameters() if isinstance(parameter, DTensor)]
    if use.called is not None:
        within = [name for name in divided if name.startswith(f"{names[use.called]}.")]
    else:
        line = re.sub(r"\[\s*['\"]?(\w+)['\"]?\s*\]", r".\1", use.line)
        within = [name for name in divided if re.search(rf"\b{re.escape(name)}\b", line)]
    unit = _unit(within[0], module) if within else None
    place = f"outside of the forward of {unit!r}" if unit else "outside of steps"
    if use.called is not None:
        name, outer = names[use.called], repr(unit) if unit else "the LightningModule"
        what = f"calls {name!r}"
        advice = f"Call {outer} instead, or make it a unit: auto_wrap_policy={{{type(use.called).__name__}}}."
    else:
        what = f"uses {', '.join(within) or 'a parameter'}"
        advice = "Take a whole copy by parameter.full_tensor(), in every process."
        if unit:
            advice += (
                f" Or leave {unit!r} out of auto_wrap_policy, or name the method that uses it in configure_model: "
                "torch.distributed.fsdp.register_fsdp_forward_method(part, method)."
            )
    return f"{use.where} {what} {place}, where its parameters are divided among the processes. {advice}"


def _unit(parameter: str, module: Module) -> str | None:
    """The name of the submodule whose forward gathers a parameter; None where a step of the whole module does."""
    parts = [name for name, part in module.named_modules() if isinstance(part, FSDPModule)]
    return max((name for name in parts if parameter.startswith(f"{name}.")), key=len, default=None)
