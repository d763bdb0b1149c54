"""What authors of plugins need of the core, and a window onto installed precisions, environments and checkpoint IOs.

The names of ``__all__`` are public, as are those of ``leyden`` itself, the other windows (``leyden.callbacks`` and its
like) and ``leyden.utilities``. A plugin imports nothing else of the core; Leyden's own plugins do not either.
"""

from leyden.checkpoint.contents import CHECKPOINT_KEY
from leyden.checkpoint.file import TorchCheckpointIO
from leyden.data.fetch import END, Fetched, Fetcher
from leyden.data.samplers import copy_with, rebuild, set_epoch
from leyden.data.transfer import transfer_function
from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.interfaces.environment import Environment
from leyden.interfaces.logger import agree_on_versions
from leyden.interfaces.precision import Precision
from leyden.interfaces.record import Record
from leyden.interfaces.runner import Runner
from leyden.interfaces.strategy import tear_down
from leyden.loops.optimizer import LightningOptimizer
from leyden.loops.optimizers import LRSchedulerConfig
from leyden.loops.progress import Phase, Progress
from leyden.loops.step import BatchStep
from leyden.metrics import LogOptions, Results, TensorRecord
from leyden.mixins.hooks import CheckpointHooks, DataHooks, ModelHooks
from leyden.mixins.hparams import HyperparametersMixin
from leyden.plugin_system.catalogue import UnknownComponentError, catalogue, published_by
from leyden.plugin_system.compatibility import CORE_DISTRIBUTION
from leyden.plugin_system.discovery import discover, names_in
from leyden.plugin_system.hooks import HOOKS_VERSION, OBSERVATION, REGISTRATION, RUN_HOOKS, facts
from leyden.plugin_system.manager import PluginInfo, PluginManager
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
from leyden.utilities.stash import StashKey

__all__ = [  # noqa: RUF022 (in the groups of the authors' guide)
    # Bases of parts; those of the other parts are in the windows where users find the parts
    "CheckpointIO",
    "Environment",
    "Precision",
    "Record",
    # The hooks, and who implements them in a run
    "HOOKS_VERSION",
    "HookTable",
    "Implementation",
    "OBSERVATION",
    "Participant",
    "REGISTRATION",
    "RUN_HOOKS",
    "facts",
    # The plugins that are installed, and the parts that they bring
    "CORE_DISTRIBUTION",
    "PluginInfo",
    "PluginManager",
    "UnknownComponentError",
    "catalogue",
    "discover",
    "names_in",
    "published_by",
    # A run, for strategies and others that change how it goes
    "BatchStep",
    "LRSchedulerConfig",
    "Phase",
    "Progress",
    "ROLES",
    "Run",
    "StashKey",
    # Loaders and batches
    "END",
    "Fetched",
    "Fetcher",
    "copy_with",
    "rebuild",
    "set_epoch",
    "transfer_function",
    # What self.log keeps
    "LogOptions",
    "Results",
    "TensorRecord",
    # Checkpoints
    "CHECKPOINT_KEY",
    "TorchCheckpointIO",
    # A runner of another kind, with the Trainer's parts
    "Runner",
    "agree_on_versions",
    "choose_accelerator",
    "choose_devices",
    "choose_loggers",
    "choose_strategy",
    "sort_plugins",
    "tear_down",
    # What modules and data modules are made of, and their optimizers
    "CheckpointHooks",
    "DataHooks",
    "HyperparametersMixin",
    "LightningOptimizer",
    "ModelHooks",
]

__getattr__, __dir__ = window(__name__, "precision", "checkpoint_io", "environment")
