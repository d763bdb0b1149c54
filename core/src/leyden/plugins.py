"""What authors of plugins need of the core, and a window onto installed precisions, environments and checkpoint IOs.

The names of ``__all__`` are public, as are those of ``leyden`` itself, the other windows (``leyden.callbacks`` and its
like) and ``leyden.utilities``. A plugin imports nothing else of the core; Leyden's own plugins do not either.
"""

from leyden.checkpoint.contents import CHECKPOINT_KEY, by_state_key
from leyden.checkpoint.file import TorchCheckpointIO, refuse_foreign
from leyden.data.fetch import END, Fetched, Fetcher, transfer_function
from leyden.data.iteration import Iteration
from leyden.data.loading import copy_with, loader_parts, rebuild, set_epoch
from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.interfaces.environment import Environment
from leyden.interfaces.logger import agree_on_versions
from leyden.interfaces.precision import Precision
from leyden.interfaces.record import Record
from leyden.interfaces.runner import Runner
from leyden.loops.optimizers import LightningOptimizer, LRSchedulerConfig
from leyden.loops.progress import Phase, Progress
from leyden.loops.step import BatchStep
from leyden.metrics import LogOptions, Results, TensorRecord
from leyden.mixins.hooks import CheckpointHooks, DataHooks, ModelHooks
from leyden.mixins.hparams import HyperparametersMixin
from leyden.plugin_system.discovery import CORE_DISTRIBUTION, discover, names_in
from leyden.plugin_system.hooks import HOOKS_VERSION, OBSERVATION, REGISTRATION, RUN_HOOKS, facts
from leyden.plugin_system.manager import PluginInfo, PluginManager, catalogue, published_by
from leyden.plugin_system.table import HookTable, Implementation, Participant
from leyden.plugin_system.windows import window
from leyden.trainer.parts import (
    ROLES,
    choose_accelerator,
    choose_devices,
    choose_loggers,
    choose_strategy,
    sort_plugins,
)
from leyden.trainer.run import Run
from leyden.utilities.exceptions import UnknownComponentError
from leyden.utilities.objects import StashKey

# Bases of parts; those of the others are in the windows where users find the parts.
__all__ = ["CheckpointIO", "Environment", "Precision", "Record"]
# The hooks by name, and what is known of them.
__all__ += ["HOOKS_VERSION", "OBSERVATION", "REGISTRATION", "RUN_HOOKS", "facts"]
# Who implements a hook in a run, and what the run calls.
__all__ += ["HookTable", "Implementation", "Participant"]
# The plugins that are installed, and the components that they bring.
__all__ += ["PluginInfo", "PluginManager", "UnknownComponentError", "discover", "names_in"]
# The distributions that are known to bring what.
__all__ += ["CORE_DISTRIBUTION", "catalogue", "published_by"]
# A run, for strategies and others that change how it goes.
__all__ += ["BatchStep", "LRSchedulerConfig", "Phase", "Progress", "Run", "StashKey"]
# Loaders and batches.
__all__ += ["END", "Fetched", "Fetcher", "Iteration", "copy_with", "loader_parts", "rebuild", "set_epoch"]
__all__ += ["transfer_function"]
# What self.log keeps.
__all__ += ["LogOptions", "Results", "TensorRecord"]
# Checkpoints.
__all__ += ["CHECKPOINT_KEY", "TorchCheckpointIO", "by_state_key", "refuse_foreign"]
# The parts of a Trainer, made of what the user wrote.
__all__ += ["ROLES", "choose_accelerator", "choose_devices", "choose_loggers", "choose_strategy", "sort_plugins"]
# A runner of another kind, such as a hand-written loop.
__all__ += ["Runner", "agree_on_versions"]
# What modules and data modules are made of, and their optimizers.
__all__ += ["CheckpointHooks", "DataHooks", "HyperparametersMixin", "LightningOptimizer", "ModelHooks"]

__getattr__, __dir__ = window(__name__, "precision", "checkpoint_io", "environment")
