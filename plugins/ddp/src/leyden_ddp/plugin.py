"""What leyden-ddp brings to Leyden: its strategies, and the clusters and launchers that may have started a process."""

from collections.abc import Iterator
from typing import Any

from leyden import Component, hookimpl

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
