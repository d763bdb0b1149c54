"""What leyden-ddp brings to Leyden: its strategies, the clusters that may have started a process, and their signals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl
from leyden_ddp import requeue, signals

if TYPE_CHECKING:
    from leyden.trainer import Trainer

# torchrun first, as it is started by what the cluster starts; 0 is for those that only a user chooses
ENVIRONMENTS = (
    ("torchrun", "torchelastic:TorchElasticEnvironment", 40),
    ("slurm", "slurm:SLURMEnvironment", 30),
    ("lsf", "lsf:LSFEnvironment", 20),
    ("mpi", "mpi:MPIEnvironment", 10),
    ("kubeflow", "kubeflow:KubeflowEnvironment", 0),
    ("local", "local:LocalEnvironment", 0),
)


START_METHODS = {"ddp": "popen", "ddp_spawn": "spawn", "ddp_fork": "fork", "ddp_notebook": "fork"}
UNUSED = {"": {}, "_find_unused_parameters_true": {"find_unused_parameters": True},
          "_find_unused_parameters_false": {"find_unused_parameters": False}}  # fmt: skip


@hookimpl
def leyden_default_strategy(trainer: Any, num_processes: int) -> str:
    """Several processes average their gradients, unless the user says otherwise."""
    return "ddp"


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The strategies and the environments, by name and by class name."""
    for method, start in START_METHODS.items():
        for suffix, unused in UNUSED.items():
            options: dict[str, Any] = {"arguments": {"start_method": start, **unused}}
            if method + suffix == "ddp":
                options["aliases"] = ["DDPStrategy"]
            yield Component("strategy", method + suffix, "leyden_ddp.strategy:DDPStrategy", options)
    for name, target, priority in ENVIRONMENTS:
        aliases = [target.partition(":")[2], *(["LightningEnvironment"] if name == "local" else [])]
        priorities = {"priority": priority, "aliases": aliases}
        yield Component("environment", name, f"leyden_ddp.environments.{target}", priorities)


@hookimpl
def leyden_find_checkpoint(trainer: Trainer, ckpt_path: str | None, fn: str) -> str | None:
    """What "hpc" stands for, and where a fit goes on whose job the cluster runs again."""
    if ckpt_path == "hpc":
        return requeue.saved_last(trainer)
    return requeue.goes_on_from(trainer) if ckpt_path is None and fn == "fit" else None


@hookimpl(trylast=True)  # after those who set a handler of their own, which is then called too
def setup(trainer: Trainer, stage: str) -> None:
    """Watch for signals in an evaluation."""
    if stage != "fit":
        signals.watch(trainer)


@hookimpl(trylast=True)
def on_fit_start(trainer: Trainer) -> None:
    """Watch for signals in a fit."""
    signals.watch(trainer)


@hookimpl
def on_asked_to_end(trainer: Trainer, reason: str) -> None:
    """Save what the cluster may run again."""
    requeue.save(trainer, reason)


@hookimpl(tryfirst=True)  # so that what other hooks do at the end can be ended by a signal
def teardown(trainer: Trainer) -> None:
    """Watch for signals no longer; what was asked for too late is done now."""
    signals.give_back(trainer)
    signals.end_if_asked_too_late(trainer)


@hookimpl(tryfirst=True)
def on_exception(trainer: Trainer) -> None:
    """Watch for signals no longer."""
    signals.give_back(trainer)
