"""Lightning's module paths in ``leyden``, such as ``leyden.callbacks.early_stopping``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from types import ModuleType

from leyden.plugins import discover

# Lightning's paths, each with a module of Leyden, or with "kind:name" of a component, for the module that defines it.
PATHS = {
    "accelerators.accelerator": "leyden.accelerators",
    "accelerators.cpu": "accelerator:CPUAccelerator",
    "accelerators.cuda": "accelerator:CUDAAccelerator",
    "accelerators.mps": "accelerator:MPSAccelerator",
    "callbacks.batch_size_finder": "callback:BatchSizeFinder",
    "callbacks.callback": "leyden.callbacks",
    "callbacks.checkpoint": "callback:Checkpoint",
    "callbacks.device_stats_monitor": "callback:DeviceStatsMonitor",
    "callbacks.early_stopping": "callback:EarlyStopping",
    "callbacks.finetuning": "callback:BaseFinetuning",
    "callbacks.gradient_accumulation_scheduler": "callback:GradientAccumulationScheduler",
    "callbacks.lambda_function": "callback:LambdaCallback",
    "callbacks.lr_finder": "callback:LearningRateFinder",
    "callbacks.lr_monitor": "callback:LearningRateMonitor",
    "callbacks.model_checkpoint": "callback:ModelCheckpoint",
    "callbacks.model_summary": "callback:ModelSummary",
    "callbacks.on_exception_checkpoint": "callback:OnExceptionCheckpoint",
    "callbacks.prediction_writer": "callback:BasePredictionWriter",
    "callbacks.progress": "leyden.callbacks",
    "callbacks.progress.progress_bar": "callback:ProgressBar",
    "callbacks.progress.rich_progress": "callback:RichProgressBar",
    "callbacks.progress.tqdm_progress": "callback:TQDMProgressBar",
    "callbacks.pruning": "callback:ModelPruning",
    "callbacks.rich_model_summary": "callback:RichModelSummary",
    "callbacks.spike": "callback:SpikeDetection",
    "callbacks.stochastic_weight_avg": "callback:StochasticWeightAveraging",
    "callbacks.throughput_monitor": "callback:ThroughputMonitor",
    "callbacks.timer": "callback:Timer",
    "callbacks.weight_averaging": "callback:WeightAveraging",
    "core": "leyden_lightning.core",
    "core.datamodule": "leyden_lightning.core",
    "core.hooks": "leyden_lightning.core",
    "core.mixins": "leyden_lightning.core",
    "core.mixins.hparams_mixin": "leyden_lightning.core",
    "core.module": "leyden_lightning.core",
    "core.optimizer": "leyden_lightning.core",
    "demos.boring_classes": "demo:BoringModel",
    "loggers.comet": "logger:CometLogger",
    "loggers.csv_logs": "logger:CSVLogger",
    "loggers.logger": "leyden.loggers",
    "loggers.mlflow": "logger:MLFlowLogger",
    "loggers.tensorboard": "logger:TensorBoardLogger",
    "loggers.wandb": "logger:WandbLogger",
    "plugins.environments": "leyden.plugins",
    "plugins.io": "leyden.plugins",
    "plugins.io.checkpoint_plugin": "leyden.plugins",
    "plugins.io.torch_plugin": "leyden.plugins",
    "plugins.precision": "leyden.plugins",
    "plugins.precision.amp": "precision:MixedPrecision",
    "plugins.precision.deepspeed": "precision:DeepSpeedPrecision",
    "plugins.precision.double": "precision:DoublePrecision",
    "plugins.precision.fsdp": "precision:FSDPPrecision",
    "plugins.precision.half": "precision:HalfPrecision",
    "plugins.precision.precision": "leyden.plugins",
    "profilers.advanced": "profiler:AdvancedProfiler",
    "profilers.base": "leyden.profilers",
    "profilers.profiler": "leyden.profilers",
    "profilers.pytorch": "profiler:PyTorchProfiler",
    "profilers.simple": "profiler:SimpleProfiler",
    "strategies.ddp": "strategy:DDPStrategy",
    "strategies.deepspeed": "strategy:DeepSpeedStrategy",
    "strategies.fsdp": "strategy:FSDPStrategy",
    "strategies.model_parallel": "strategy:ModelParallelStrategy",
    "strategies.single_device": "leyden.strategies",
    "strategies.strategy": "leyden.strategies",
    "trainer.states": "leyden.utilities.states",
    "tuner.tuning": "tuner:Tuner",
    "utilities.combined_loader": "utility:CombinedLoader",
    "utilities.data": "leyden.utilities.batch",
    "utilities.grads": "utility:grad_norm",
    "utilities.memory": "utility:is_oom_error",
    "utilities.model_helpers": "utility:is_overridden",
    "utilities.model_summary": "utility:ModelSummary",
    "utilities.model_summary.model_summary": "utility:ModelSummary",
    "utilities.parameter_tying": "utility:find_shared_parameters",
    "utilities.parsing": "leyden.utilities.objects",
    "utilities.seed": "leyden.utilities.rng",
    "utilities.types": "leyden_lightning.types",
}


def find(path: str) -> Callable[[], ModuleType] | None:
    """Return a function that loads the module at one of Lightning's paths.

    Args:
        path: The path below ``leyden``, such as "callbacks.early_stopping".

    Returns:
        A function that returns the module, and raises UnknownComponentError if no installed plugin provides the
        module's component. None if Lightning has no such path.
    """
    return partial(_load, path) if path in PATHS else None


def _load(path: str) -> ModuleType:
    place = PATHS[path]
    kind, _, component = place.partition(":")
    real = import_module(discover().component(kind, component).target.partition(":")[0] if component else place)
    if f"leyden.{path}".startswith(f"{place}."):
        return _again(real, f"leyden.{path}")
    for other in PATHS:
        # Python imports nothing from below a module that is not a package, so deeper paths are entered here.
        if other.startswith(f"{path}.") and PATHS[other] == place:
            sys.modules[f"leyden.{other}"] = real
    return real


def _again(window: ModuleType, name: str) -> ModuleType:
    """Load a second copy of a window, for a path below the first.

    Python makes an imported module an attribute of its parent, so one module can't be at both paths.
    """
    loader = SourceFileLoader(name, str(window.__file__))
    module = module_from_spec(ModuleSpec(name, loader))
    loader.exec_module(module)
    return module
