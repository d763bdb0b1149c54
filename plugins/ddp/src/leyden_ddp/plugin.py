"""The plugin leyden-ddp: its strategies, the environments of clusters, and the signals that end a run."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl
from leyden_ddp import requeue, signals

if TYPE_CHECKING:
    from leyden import Trainer

# name, target, priority; torchrun comes first, because clusters start it; 0: only the user can choose it
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
    """Choose "ddp" for several processes if the user has named no strategy."""
    return "ddp"


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The strategies and the environments, each by its name and the name of its class."""
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
    """Find the checkpoint that "hpc" names, or that of a job that the cluster runs again."""
    if ckpt_path == "hpc":
        return requeue.saved_last(trainer)
    return requeue.resumes_from(trainer) if ckpt_path is None and fn == "fit" else None


@hookimpl(wrapper=True)
def leyden_prepare_loader(owner: Any) -> Generator[None, Any, Any]:
    """Have the workers of a Trainer's loaders outlast the signals that ask the run to end."""
    loader = yield
    if not hasattr(owner, "asked_to_end"):  # a Fabric, which watches for no signal
        return loader
    from leyden_ddp.workers import undisturbed

    return undisturbed(loader)


@hookimpl(wrapper=True)
def setup(trainer: Trainer, stage: str) -> Generator[None, None, None]:
    """Compare the settings of the ranks, and in an evaluation begin to watch for signals afterwards.

    Hooks that set handlers of their own have done so by then; these are called too.
    """
    if (compare := getattr(trainer.strategy, "compare_settings", None)) is not None:
        compare(trainer)
    _set_batchnorm_apart(trainer.world_size == 1)
    yield
    if stage != "fit":
        signals.watch(trainer)


@hookimpl(trylast=True)
def on_fit_start(trainer: Trainer) -> None:
    """Begin to watch for signals in a fit."""
    signals.watch(trainer)


@hookimpl
def on_asked_to_end(trainer: Trainer, reason: str) -> None:
    """Save the run if the cluster may run its job again."""
    requeue.save(trainer, reason)


@hookimpl(wrapper=True, tryfirst=True)
def on_fit_end(trainer: Trainer) -> Generator[None, Any, Any]:
    """Tell all processes if it fails in one."""
    with _together(trainer):
        return (yield)


@hookimpl(wrapper=True, tryfirst=True)
def teardown(trainer: Trainer) -> Generator[None, Any, Any]:
    """Tell all processes if it fails in one, or if one got SIGTERM too late for a step boundary; that ends all."""
    _set_batchnorm_apart(False)
    with _together(trainer):
        answer = yield
    signals.end_if_asked_too_late(trainer)
    signals.give_back(trainer)
    return answer


def _together(trainer: Trainer) -> AbstractContextManager[None]:
    """The strategy's own block that all processes leave together, if there are several."""
    together = getattr(trainer.strategy, "together", None)
    return nullcontext() if together is None else together(lambda: trainer.asked_to_end)


@hookimpl(wrapper=True, tryfirst=True)
def on_exception(trainer: Trainer, exception: BaseException) -> Generator[None, Any, Any]:
    """Stop watching for signals; after a signal only when all others know that the run ends."""
    _set_batchnorm_apart(False)
    with signals.ending(trainer, exception):
        return (yield)


def _set_batchnorm_apart(is_apart: bool) -> None:
    """Say whether a run of one process is under way, if there may be synchronised batch normalisation at all."""
    module = sys.modules.get("leyden_ddp.batchnorm")
    if module is not None:
        module.SynchronisedBatchNorm.is_apart = is_apart
