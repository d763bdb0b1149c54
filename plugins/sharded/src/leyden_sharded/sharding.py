"""Sharding: how a module's parameters are divided, and where they are gathered and divided again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter
from torch.utils.checkpoint import checkpoint

from leyden.utilities.exceptions import MisconfigurationException
from leyden_sharded.tensors import whole


class Redirect(Module):
    """A module whose ``forward`` runs a step of the user's module.

    For FSDP the whole step is then one forward pass, so the LightningModule's own parameters are whole in every line of
    the step. The class of the user's module is not changed, as ``fully_shard`` would do.
    """

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, name: str, on_gathered: Callable[[], None], *args: Any, **kwargs: Any) -> Any:
        """Call ``on_gathered``, as parameters have been gathered, and run the step ``name``."""
        on_gathered()
        return getattr(self.module, name)(*args, **kwargs)


class Sharding:
    """Gathers and divides the parameters of a module.

    Args:
        roots: The outermost modules to which ``fully_shard`` was applied: a :class:`Redirect` around the whole module.
            In manual optimisation, where backward passes run within the step, they are submodules.
        reshards: Whether inner units are divided again after their forward pass.

    Attributes:
        redirect: The module that runs a step; None in manual optimisation.
        parts: All modules to which ``fully_shard`` was applied.
        is_running: Whether a run uses this object now, or has failed.
    """

    def __init__(self, roots: Sequence[Module], reshards: bool) -> None:
        self.roots, self._reshards = roots, reshards
        self.redirect: Any = roots[0] if roots and isinstance(roots[0], Redirect) else None
        found = {id(part): part for root in roots for part in root.modules() if isinstance(part, FSDPModule)}
        self.parts: list[Any] = list(found.values())
        self.is_running = False

    @contextmanager
    def no_sync(self) -> Generator[None, None, None]:
        """A block whose backward passes do not exchange gradients."""
        self._require_sync(False)
        try:
            yield
        finally:
            self._require_sync(True)

    def _require_sync(self, required: bool) -> None:
        for part in self.parts:
            part.set_requires_gradient_sync(required, recurse=False)

    def divide(self) -> None:
        """Free whole parameters, if there are any."""
        for part in self.parts:
            part.reshard()

    def gather_once(self) -> None:
        """Gather and divide every unit once, because tensors that FSDP makes in inference mode can't be trained."""
        for part in self.parts:
            part.unshard()
            part.reshard()

    def gather(self) -> None:
        """Gather all parameters; no forward pass communicates until :meth:`release`."""
        for part in self.parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()

    def begin(self) -> None:
        """Prepare for a run; after a run that failed within a pass, FSDP's state is reset.

        Without that, FSDP would drop gradients without a message.

        Raises:
            MisconfigurationException: The last run has failed, and this version of PyTorch can't reset FSDP's state.
        """
        if self.is_running:
            if not hasattr(FSDPModule, "reset_iter_state"):
                raise MisconfigurationException(
                    "The run before this one failed, and this version of PyTorch can't use the divided module after "
                    "that; make a new module and fit it from a checkpoint."
                )
            for root in self.roots:
                cast(Any, root).reset_iter_state()
            self.release()
        self.is_running = True

    def release(self) -> None:
        """Undo :meth:`gather`."""
        for part in self.parts:
            part.set_reshard_after_forward(self._reshards and part not in self.roots, recurse=False)
        self.divide()


def shard(module: Module, inner: Sequence[Module], is_automatic: bool, reshards: bool, **options: Any) -> Sharding:
    """Divide a module.

    Args:
        module: The module; submodules that the user has divided stay as they are.
        inner: The submodules that are units, innermost first.
        is_automatic: Whether backward passes run after the step, as in automatic optimisation.
        reshards: Whether inner units are divided again after their forward pass.
        options: For ``fully_shard``.
    """
    for unit in inner:
        fully_shard(unit, reshard_after_forward=reshards, **options)
    roots = [Redirect(module)] if is_automatic else list(_entrances(module))
    for root in roots:
        if not isinstance(root, FSDPModule):
            fully_shard(root, reshard_after_forward=False, **options)
    if is_automatic:
        gather: Any = roots[0]
        module.register_forward_pre_hook(lambda *_: gather.unshard())  # for calls of the module outside of steps
    else:
        _refuse_left_out(module)
    return Sharding(roots, reshards)


def _entrances(module: Module) -> Iterator[Module]:
    """The outermost submodules that have parameters and are called; lists and dicts of modules are not called."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _entrances(child)
        elif any(True for _ in child.parameters()):
            yield child


def _refuse_left_out(module: Module) -> None:
    names = [name for name, p in module.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if names:
        raise MisconfigurationException(
            f"{', '.join(names)}: parameters of the LightningModule itself can't be divided in manual optimisation; "
            "put them into a submodule."
        )


def checkpoint_activations(parts: Sequence[Module]) -> None:
    """Let modules compute their activations again in the backward pass, and not keep them."""
    for part in parts:
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def make_whole(module: Module) -> None:
    """Replace divided parameters by whole ones on the host; called by all processes."""
    for part in module.modules():
        for name, parameter in cast("dict[str, Any]", part._parameters).items():
            if isinstance(parameter, DTensor):
                part._parameters[name] = Parameter(whole(parameter.detach()).cpu(), parameter.requires_grad)
