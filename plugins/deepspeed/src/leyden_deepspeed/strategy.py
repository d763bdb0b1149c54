"""DeepSpeedStrategy: a module trained by DeepSpeed's engine."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from leyden.module import LightningModule
from leyden.utilities.batch import map_collection
from leyden.utilities.exceptions import MisconfigurationException
from leyden_deepspeed import config as configuration
from leyden_deepspeed import library
from leyden_deepspeed.checkpoints import EngineCheckpoints
from leyden_deepspeed.step import EngineOptimizer, EngineStep
from leyden_deepspeed.whole import Parts, Shadow


class DeepSpeedStrategy(EngineCheckpoints):
    """Divides optimizer states (stage 1), gradients (2) and parameters (3) among the processes, by DeepSpeed.

    The Trainer's ``accumulate_grad_batches``, ``gradient_clip_val``, ``precision`` and batch size are filled in where
    the configuration leaves them open or says "auto". After a run that ends well each process has the whole module
    again, in the format that it had before.

    Args:
        config: A dict in DeepSpeed's format, or the path of a JSON file of it (or ``PL_DEEPSPEED_CONFIG_PATH`` names
            one); it decides alone. None makes one from ``options``.
        logging_level: From which level on DeepSpeed's log messages are shown.
        remote_device: Where stage 3 puts what ``configure_model`` builds, "cpu" or "nvme"; None is the device.
        exclude_frozen_parameters: Leave parameters that are not trained out of checkpoints.
        process_group_backend: See :class:`ParallelStrategy`, and for ``timeout``, ``start_method`` and
            ``uneven_inputs`` too.
        timeout: How long the processes wait for each other.
        start_method: How the processes of a node start.
        uneven_inputs: What to do when the ranks have different numbers of training batches.
        options: Lightning's names: ``stage``, ``zero_optimization``, ``offload_optimizer``, ``offload_parameters``,
            ``allgather_bucket_size``, ``reduce_bucket_size`` (both in elements), ``overlap_comm``,
            ``logging_batch_size_per_gpu``, ``loss_scale``, …: the keys of :data:`leyden_deepspeed.config.OPTIONS`,
            which has their defaults, explained in DeepSpeed's documentation.

    Attributes:
        config: The configuration as the user gave it, or as it follows from ``options``.
        stage: Which of ZeRO's stages; 0 for none.

    Raises:
        MisconfigurationException: An option is not known, or there is no such file.
    """

    strategy_name = "deepspeed"

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | None = None,
        *,
        logging_level: int = logging.WARNING,
        remote_device: str | None = None,
        exclude_frozen_parameters: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        start_method: Any = "popen",
        uneven_inputs: Any = "stop_together",
        **options: Any,
    ) -> None:
        waiting = {"timeout": timeout} if timeout is not None else {}
        super().__init__(process_group_backend, start_method=start_method, uneven_inputs=uneven_inputs, **waiting)
        self.config = configuration.read(config, options)
        self.stage = configuration.stage(self.config)
        self.logging_level, self.remote_device = logging_level, remote_device
        self.exclude_frozen_parameters = exclude_frozen_parameters
        self._loss_scaling = {name: options[name] for name in configuration.LOSS_SCALING if name in options}
        self._settled: dict[str, Any] = {}
        self._run_context = ExitStack()

    # -- before processes start ------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Refuse what can't work: no DeepSpeed, or devices that it would not take."""
        library.require(self.stage, "offload_param" in self.config.get("zero_optimization", {}))
        super().connect()
        for rank, device in enumerate(self.parallel_devices):
            if device.index not in (None, rank):
                raise MisconfigurationException(
                    f"DeepSpeed takes device {rank} in process {rank} of a node, but devices= asks for {device}; "
                    "choose with CUDA_VISIBLE_DEVICES, and give their number."
                )

    def settle(self, trainer: Any, batch_size: int | None = None) -> dict[str, Any]:
        """Complete the configuration from a Trainer and, where it is known, the number of samples in a batch.

        Raises:
            MisconfigurationException: The two don't agree.
        """
        if trainer.gradient_clip_val and trainer.gradient_clip_algorithm == "value":
            raise MisconfigurationException(
                'gradient_clip_algorithm="value" is nothing that DeepSpeed does; write "norm".'
            )
        self._settled = configuration.complete(
            self.config,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            gradient_clip_val=trainer.gradient_clip_val,
            precision=self.precision.precision,
            batch_size=batch_size,
            world_size=self.world_size,
            loss_scaling=self._loss_scaling,
        )
        return self._settled

    # -- the module and the engine ---------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Meet the other processes, and import DeepSpeed."""
        super().setup_environment()
        self._run_context.enter_context(library.known_rank(self.local_rank))
        self._deepspeed = library.load(self.root_device.type)
        self._deepspeed.utils.logging.logger.setLevel(self.logging_level)

    @contextmanager
    def module_init_context(self, empty_init: bool | None = None) -> Generator[None, None, None]:
        """Context in which modules are built: in stage 3 each process keeps its part of what is built."""
        if self.stage != 3 or not self._settled or not dist.is_initialized():
            with super().module_init_context(empty_init):
                yield
            return
        divided = self._deepspeed.zero.Init(config_dict_or_path=self._settled, remote_device=self.remote_device)
        with divided, self.precision.module_init_context():
            yield

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Move the module to the device; an engine takes it with its optimizer, or now for evaluation in stage 3."""
        if not isinstance(module, LightningModule):
            raise MisconfigurationException(
                f"strategy='deepspeed' runs a Trainer's LightningModule, and this is a {type(module).__name__}; under "
                f"Fabric write strategy={library.TWINS.get(self.stage)!r}."
            )
        self._engine = self._parts = self._step = None  # of an earlier run
        self._module = module
        self.precision.convert_module(module)
        self._dtypes = {name: parameter.dtype for name, parameter in module.named_parameters()}
        module.to(self.root_device)
        if not training and self.stage == 3:
            # in the module's own format, under the Trainer's precision: nothing is rounded by being evaluated
            kept = ("zero_optimization", "zero_allow_untested_optimizer")
            settings = {key: self._settled[key] for key in kept if key in self._settled}
            self._make_engine({**settings, "train_micro_batch_size_per_gpu": 1}, None)

    def setup_optimizers(self, optimizers: list[Any]) -> list[Any]:
        """Give module and optimizer to an engine, and to the engine what a checkpoint holds."""
        trainer = self._module.trainer
        settings = self.settle(trainer, _batch_size(trainer.fit_loop.source))
        if ("optimizer" in settings) + len(optimizers) != 1:
            named = [*(type(o).__name__ for o in optimizers), *(["that of its config"] * ("optimizer" in settings))]
            raise MisconfigurationException(
                f"DeepSpeed takes one optimizer, from configure_optimizers or from its config, and there are "
                f"{len(named)}: {', '.join(named) or 'none'}."
            )
        if "scheduler" in settings and trainer.lr_scheduler_configs:
            raise MisconfigurationException(
                "There is a scheduler in DeepSpeed's config and one from configure_optimizers; return none there."
            )
        self._make_engine(settings, optimizers[0] if optimizers else None)
        self._engine.set_gradient_accumulation_boundary(True)
        self._load_engine()
        trainer.run.step = self._step = EngineStep(trainer.run, self._engine)
        return [EngineOptimizer(self._engine)]

    def _make_engine(self, settings: dict[str, Any], optimizer: Any) -> None:
        self._shadow = Shadow(self._module)
        self._dtype = configuration.dtype(settings)
        trained = [p for p in self._module.parameters() if p.requires_grad]
        index = self.root_device.index
        with self.collective("deepspeed.initialize"):
            self._engine, *_ = self._deepspeed.initialize(
                args=Namespace(device_rank=self.local_rank if index is None else index),
                model=self._shadow, optimizer=optimizer, config=settings, dist_init_required=False,
                model_parameters=trained if "optimizer" in settings or optimizer is not None else [],
            )  # fmt: skip
        if activations := settings.get("activation_checkpointing"):
            self._deepspeed.checkpointing.configure(
                mpu_=None,
                partition_activations=activations.get("partition_activations"),
                contiguous_checkpointing=activations.get("contiguous_memory_optimization"),
                checkpoint_in_cpu=activations.get("cpu_checkpointing"),
                synchronize=activations.get("synchronize_checkpoint_boundary"),
                profile=activations.get("profile"),
            )

    @property
    def deepspeed_engine(self) -> Any:
        """DeepSpeed's engine; None before a run."""
        return self._engine

    def on_validation_start(self) -> None:
        """Refuse what stage 3 can't validate."""
        self._require_even("validation", self._module.trainer.num_val_batches)

    def on_test_start(self) -> None:
        """Refuse what stage 3 can't test."""
        self._require_even("test", self._module.trainer.num_test_batches)

    def on_predict_start(self) -> None:
        """Refuse what stage 3 can't predict."""
        self._require_even("prediction", self._module.trainer.num_predict_batches)

    def _require_even(self, what: str, batches: list[int | float]) -> None:
        """Parameters are gathered in every batch, by all processes; one that has fewer batches would be waited for."""
        if self.stage != 3:
            return
        counts = [sum(count) for count in self.all_gather_object(list(batches))]
        if len(set(counts)) > 1:
            raise MisconfigurationException(
                f"The processes have {' and '.join(map(str, counts))} {what} batches, but stage 3 of DeepSpeed needs "
                "all of them in every batch; limit their number to one that all have, or take fewer devices."
            )

    # -- the steps -------------------------------------------------------------------------------------------------

    def leyden_optimize_batch(self, batch: Any, batch_idx: int) -> dict[str, Any] | None:
        """Train on one batch, the engine's way."""
        return self._step.leyden_optimize_batch(batch, batch_idx) if self._step is not None else None

    def step_function(self, module: Module, name: str) -> Callable[..., Any]:
        """A step runs as one forward pass of what the engine has for the model."""
        return partial(self._run, module, name)

    def _run(self, module: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._engine is None:
            return getattr(module, name)(*args, **kwargs)
        if self._dtype is not None:
            args, kwargs = self._in_format(args), self._in_format(kwargs)
        self._shadow.training = module.training
        if self.trace is not None and self.stage == 3:
            self.trace.enter(name)
        with torch.autocast(self.root_device.type, enabled=False) if self._dtype is not None else nullcontext():
            if name != "training_step":
                return self._shadow(name, *args, **kwargs)
            output = self._engine(name, *args, **kwargs)
        if output is None and module.automatic_optimization:
            raise MisconfigurationException(
                "training_step returned None to skip the batch, but DeepSpeed's engine can't leave out a backward "
                "pass, in which the other processes take part; return a loss of zero, (parameter * 0).sum()."
            )
        return output

    def _in_format(self, value: Any) -> Any:
        """The floating-point tensors of a batch in the format of the parameters."""
        if isinstance(value, Tensor):
            return value.to(self._dtype) if value.is_floating_point() else value
        return map_collection(value, self._in_format)

    @contextmanager
    def no_sync(self) -> Generator[None, None, None]:
        """Backward passes within add to the gradients, and the engine does not step."""
        if self._engine is None:
            yield
            return
        if self._engine.gradient_accumulation_steps() == 1:
            raise MisconfigurationException(
                "DeepSpeed's engine was told that every batch is stepped on, and now one is to be accumulated; "
                "accumulate_grad_batches can't change during a run of strategy='deepspeed'."
            )
        self._engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self._engine.set_gradient_accumulation_boundary(True)

    def teardown(self, module: Module | None = None) -> None:
        """Make the module whole again after a run that went well; the engine is kept for ``save_checkpoint``."""
        is_failing = sys.exc_info()[0] is not None
        self._to_load = self._step = None
        if self._engine is not None and is_failing:
            self._engine = None  # the other processes may be gone, and making it whole takes all
        elif self._engine is not None and self._parts is None:
            with self.collective("the whole module"):
                self._parts = Parts(self._deepspeed, self._module, self._shadow, self._dtypes)
            self._engine.destroy()
        self._run_context.close()
        super().teardown(module)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_deepspeed", "_run_context")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _run_context=ExitStack())


def _batch_size(source: Any) -> int | None:
    """The number of samples in a batch of the loader that was passed, where it says so."""
    loader = getattr(source, "given", None)
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else None
