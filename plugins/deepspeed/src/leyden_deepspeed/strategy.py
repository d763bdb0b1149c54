"""DeepSpeedStrategy: DeepSpeed's engine trains the module."""

from __future__ import annotations

import logging
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

from leyden import LightningModule
from leyden.utilities.batch import map_collection
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.weights import compare_tensors, take_from_rank_zero, tensors_of
from leyden_deepspeed import config as configuration
from leyden_deepspeed import library
from leyden_deepspeed.checkpoints import EngineCheckpoints
from leyden_deepspeed.step import EngineOptimizer, EngineStep
from leyden_deepspeed.whole import EngineModule, Parts


class DeepSpeedStrategy(EngineCheckpoints):
    """Divides optimizer states (stage 1), gradients (2) and parameters (3) among the processes, with DeepSpeed.

    Where the configuration lacks a value or says "auto", the value comes from the Trainer: from
    ``accumulate_grad_batches``, ``gradient_clip_val``, ``precision`` and the batch size of the loader. After a run that
    went well each process has the whole module again, in the format that it had before.

    Args:
        config: A dict in DeepSpeed's format, or the path of a JSON file in that format; the variable
            ``PL_DEEPSPEED_CONFIG_PATH`` may name the file, too. With it there must be no other options but those of the
            loss scaling. None makes a configuration from ``options``.
        logging_level: The lowest level of DeepSpeed's log messages that are shown.
        remote_device: Where stage 3 puts what ``configure_model`` builds: "cpu" or "nvme"; None means the device.
        exclude_frozen_parameters: Whether parameters that are not trained are left out of checkpoints.
        process_group_backend: See :class:`ParallelStrategy`, also for the next three.
        timeout: How long the processes wait for each other.
        start_method: How the processes of a node start.
        uneven_inputs: What happens when the ranks have different numbers of training batches.
        options: Settings by the names that Lightning uses: ``stage``, ``zero_optimization``, ``offload_optimizer``,
            ``offload_parameters``, ``allgather_bucket_size``, ``reduce_bucket_size`` (both in elements),
            ``overlap_comm``, ``logging_batch_size_per_gpu``, ``loss_scale``, … All names and defaults are in
            :data:`leyden_deepspeed.config.OPTIONS`; DeepSpeed's documentation explains them.

    Attributes:
        config: The configuration that the user gave, or that was made from ``options``.
        stage: The stage of ZeRO; 0 without ZeRO.

    Raises:
        MisconfigurationException: An option is not known, or the file can't be read.
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
        self._complete_config: dict[str, Any] = {}
        self._run_context = ExitStack()

    # -- before processes start ------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Refuse to run without DeepSpeed, and on devices that it would not use."""
        library.require(self.stage, "offload_param" in self.config.get("zero_optimization", {}))
        super().connect()
        for rank, device in enumerate(self.parallel_devices):
            if device.index not in (None, rank):
                raise MisconfigurationException(
                    f"DeepSpeed uses device {rank} in process {rank} of a node, but devices= asks for {device}; choose "
                    "devices with CUDA_VISIBLE_DEVICES, and pass their number."
                )

    def complete_config(self, trainer: Any, batch_size: int | None = None) -> dict[str, Any]:
        """Complete the configuration from a Trainer.

        Args:
            trainer: The Trainer.
            batch_size: The number of samples in a batch of one process; None if it is not known.

        Returns:
            The complete configuration.

        Raises:
            MisconfigurationException: The Trainer and the configuration contradict each other.
        """
        if trainer.gradient_clip_val and trainer.gradient_clip_algorithm == "value":
            raise MisconfigurationException(
                'gradient_clip_algorithm="value" is not supported by DeepSpeed; write "norm".'
            )
        self._complete_config = configuration.complete(
            self.config,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            gradient_clip_val=trainer.gradient_clip_val,
            precision=self.precision.precision,
            batch_size=batch_size,
            world_size=self.world_size,
            loss_scaling=self._loss_scaling,
        )
        return self._complete_config

    # -- the module and the engine ---------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Connect to the other processes and import DeepSpeed."""
        super().setup_environment()
        self._run_context.enter_context(library.known_rank(self.local_rank))
        self._deepspeed = library.load(self.root_device.type)
        self._deepspeed.utils.logging.logger.setLevel(self.logging_level)

    @contextmanager
    def module_init_context(self, empty_init: bool | None = None) -> Generator[None, None, None]:
        """The context in which modules are built; in stage 3 each process keeps only its part of the parameters."""
        if self.stage != 3 or not self._complete_config or not dist.is_initialized():
            with super().module_init_context(empty_init):
                yield
            return
        divided = self._deepspeed.zero.Init(config_dict_or_path=self._complete_config, remote_device=self.remote_device)
        with divided, self.precision.module_init_context():
            yield

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Move the module to the device; an evaluation is of the weights of rank 0, and in stage 3 makes an engine now.

        For training, :meth:`setup_optimizers` makes the engine.
        """
        if not isinstance(module, LightningModule):
            raise MisconfigurationException(
                f"strategy='deepspeed' runs the LightningModule of a Trainer, and this is a {type(module).__name__}; "
                f"with Fabric write strategy={library.EQUIVALENTS.get(self.stage)!r}."
            )
        self._engine = self._parts = self._step = None  # remove those of an earlier run
        self._module = module
        self.precision.convert_module(module)
        self._dtypes = {name: parameter.dtype for name, parameter in module.named_parameters()}
        module.to(self.root_device)
        if self.stage != 3:
            compare_tensors(module, self, training)
            if not training:
                take_from_rank_zero(tensors_of(module), self)
        elif not training:
            # Without DeepSpeed's 16-bit formats: the module keeps its format, and evaluation rounds no weights.
            kept = ("zero_optimization", "zero_allow_untested_optimizer")
            settings = {key: self._complete_config[key] for key in kept if key in self._complete_config}
            self._make_engine({**settings, "train_micro_batch_size_per_gpu": 1}, None)

    def setup_optimizers(self, optimizers: list[Any]) -> list[Any]:
        """Make an engine of the module and its optimizer, and let it load the checkpoint, if there is one."""
        trainer = self._module.trainer
        settings = self.complete_config(trainer, _batch_size(trainer.fit_loop.source))
        if ("optimizer" in settings) + len(optimizers) != 1:
            named = [*(type(o).__name__ for o in optimizers), *(["that of its config"] * ("optimizer" in settings))]
            raise MisconfigurationException(
                f"DeepSpeed needs exactly one optimizer, from configure_optimizers or from its config, and there are "
                f"{len(named)}: {', '.join(named) or 'none'}."
            )
        if "scheduler" in settings and trainer.lr_scheduler_configs:
            raise MisconfigurationException(
                "There is a scheduler in DeepSpeed's config and one from configure_optimizers; return none from there."
            )
        self._make_engine(settings, optimizers[0] if optimizers else None)
        self._engine.set_gradient_accumulation_boundary(True)
        self._load_engine()
        trainer.run.step = self._step = EngineStep(trainer.run, self._engine)
        return [EngineOptimizer(self._engine)]

    def _make_engine(self, settings: dict[str, Any], optimizer: Any) -> None:
        self._engine_module = EngineModule(self._module)
        self._dtype = configuration.dtype(settings)
        trained = [p for p in self._module.parameters() if p.requires_grad]
        index = self.root_device.index
        with self.collective("deepspeed.initialize"):
            self._engine, *_ = self._deepspeed.initialize(
                args=Namespace(device_rank=self.local_rank if index is None else index),
                model=self._engine_module, optimizer=optimizer, config=settings, dist_init_required=False,
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
        """DeepSpeed's engine; None before the first run and after a failed one."""
        return self._engine

    def on_validation_start(self) -> None:
        """In stage 3, refuse a validation with different numbers of batches on the processes."""
        self._require_even("validation", self._module.trainer.num_val_batches)

    def on_test_start(self) -> None:
        """In stage 3, refuse a test with different numbers of batches on the processes."""
        self._require_even("test", self._module.trainer.num_test_batches)

    def on_predict_start(self) -> None:
        """In stage 3, refuse a prediction with different numbers of batches on the processes."""
        self._require_even("prediction", self._module.trainer.num_predict_batches)

    def _require_even(self, what: str, batches: list[int | float]) -> None:
        """Refuse different numbers of batches in stage 3, where all processes gather parameters in every batch."""
        if self.stage != 3:
            return
        counts = [sum(count) for count in self.all_gather_object(list(batches))]
        if len(set(counts)) > 1:
            raise MisconfigurationException(
                f"The processes have {' and '.join(map(str, counts))} {what} batches, but stage 3 of DeepSpeed needs "
                "every process in every batch; limit the number of batches to what all have, or use fewer devices."
            )

    # -- the steps -------------------------------------------------------------------------------------------------

    def leyden_optimize_batch(self, batch: Any, batch_idx: int) -> dict[str, Any] | None:
        """Train on one batch with the engine."""
        return self._step.leyden_optimize_batch(batch, batch_idx) if self._step is not None else None

    def step_function(self, module: Module, name: str) -> Callable[..., Any]:
        """A function that runs a step as one forward pass of the engine."""
        return partial(self._run, module, name)

    def _run(self, module: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._engine is None:
            return getattr(module, name)(*args, **kwargs)
        if self._dtype is not None:
            args, kwargs = self._in_format(args), self._in_format(kwargs)
        self._engine_module.training = module.training
        if self.trace is not None and self.stage == 3:
            self.trace.enter(name)
        with torch.autocast(self.root_device.type, enabled=False) if self._dtype is not None else nullcontext():
            if name != "training_step":
                return self._engine_module(name, *args, **kwargs)
            output = self._engine(name, *args, **kwargs)
        if output is None and module.automatic_optimization:
            raise MisconfigurationException(
                "training_step returned None to skip the batch, but DeepSpeed's engine can't skip a backward pass, in "
                "which the other processes take part; return a loss of zero: (parameter * 0).sum()."
            )
        return output

    def _in_format(self, value: Any) -> Any:
        """Cast the floating-point tensors of a batch to the format of the parameters."""
        if isinstance(value, Tensor):
            return value.to(self._dtype) if value.is_floating_point() else value
        return map_collection(value, self._in_format)

    @contextmanager
    def no_sync(self) -> Generator[None, None, None]:
        """A block in which backward passes add to the gradients and the engine does not step."""
        if self._engine is None:
            yield
            return
        if self._engine.gradient_accumulation_steps() == 1:
            raise MisconfigurationException(
                "DeepSpeed's engine was made for a step after every batch, and now a batch is to be accumulated; "
                "accumulate_grad_batches can't change during a run of strategy='deepspeed'."
            )
        self._engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self._engine.set_gradient_accumulation_boundary(True)

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Make the module whole again after a run that went well; the engine is kept for ``save_checkpoint``."""
        self._to_load = self._step = None
        if self._engine is not None and error is not None:
            self._engine = None  # to make the module whole takes all processes, and the others may be gone
        elif self._engine is not None and self._parts is None:
            with self.collective("the whole module"):
                self._parts = Parts(self._deepspeed, self._module, self._engine_module, self._dtypes)
            self._engine.destroy()
        self._run_context.close()
        super().teardown(module, error)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_deepspeed", "_run_context")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _run_context=ExitStack())


def _batch_size(source: Any) -> int | None:
    """The number of samples in a batch of the loader that was passed to ``fit``; None if it is not known."""
    loader = getattr(source, "given", None)
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else None
