"""What bad input gets: one sentence that names the thing, before any training where it can be known before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden as pl
from leyden.accelerators import CPUAccelerator
from leyden.plugin_system.discovery import discover
from leyden.utilities import MisconfigurationException
from leyden_testing.fake_plugins import PluginSite, new_plugin_site
from leyden_testing.models import Batches, EveryStep, SmallModel
from leyden_testing.training import quiet_trainer

STAGES = ["fit", "validate", "test", "predict"]


@pytest.fixture
def plugin_site(tmp_path: Path) -> Iterator[PluginSite]:
    with new_plugin_site(tmp_path / "site") as site:
        yield site


class Watched(EveryStep):
    """Notes the first thing that a run does with it."""

    touched = False

    def prepare_data(self) -> None:
        self.touched = True

    def setup(self, stage: str) -> None:
        self.touched = True


def refused(
    root: Path,
    said: str,
    stage: str = "fit",
    model: Any = None,
    data: Any = None,
    error: type[Exception] = MisconfigurationException,
    touched: bool = False,
    options: dict[str, Any] | None = None,
    **arguments: Any,
) -> None:
    """The run is refused in a sentence that matches ``said``; no batch is drawn, no hook called if not ``touched``."""
    model = Watched() if model is None else model
    data = Batches() if data is None else data
    if stage == "fit":
        arguments = {"val_dataloaders": Batches(), **arguments}
    with pytest.raises(error) as caught:
        getattr(quiet_trainer(root, **(options or {})), stage)(model, data, **arguments)
    text = str(caught.value)
    assert re.search(said, text), text
    assert text[-1] in ".?!"
    assert "\n" not in text
    assert getattr(data, "drawn", 0) == 0
    assert getattr(model, "touched", False) == touched


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerator", ["auto", "cpu", "gpu"])
def test_no_accelerator_is_installed(plugin_site, tmp_path, monkeypatch, accelerator):
    monkeypatch.setenv("LEYDEN_PLUGINS_AUTOLOAD", "0")
    discover().infos[:] = discover().infos[:1]  # as if only the core were installed
    said = (
        r"accelerator='auto' finds no device on this machine \(installed: none\): pip install leyden-cpu\.$"
        if accelerator == "auto"
        else f"no accelerator '{accelerator}'"
    )
    with pytest.raises(MisconfigurationException, match=said) as caught:
        quiet_trainer(tmp_path, accelerator=accelerator)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("plugin", "arguments", "ckpt_path"),
    [
        ("cpu", {"accelerator": "auto"}, None),
        ("callbacks", {"enable_checkpointing": True}, None),
        ("callbacks", {}, "best"),
        ("ddp", {"devices": 2}, None),
        ("progress", {"enable_progress_bar": True}, None),
        ("tensorboard", {"logger": True}, None),
    ],
)
def test_what_is_installed_and_disabled_is_not_to_be_installed(
    plugin_site, tmp_path, monkeypatch, plugin, arguments, ckpt_path
):
    monkeypatch.setenv("LEYDEN_PLUGINS_AUTOLOAD", "0")
    monkeypatch.setenv("LEYDEN_PLUGINS", "" if plugin == "cpu" else "cpu")
    said = rf"the plugin '{plugin}' of leyden-{plugin} \S+ is disabled by LEYDEN_PLUGINS_AUTOLOAD=0"
    with pytest.raises((MisconfigurationException, FileNotFoundError), match=said) as caught:
        quiet_trainer(tmp_path, **arguments).test(EveryStep(), Batches(), ckpt_path=ckpt_path)
    assert "pip install" not in str(caught.value)


def test_no_strategy_for_several_devices_is_installed(plugin_site, tmp_path, monkeypatch):
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "ddp,leyden-ddp")
    with pytest.raises(MisconfigurationException, match=r"devices and num_nodes make 2 processes.*leyden-ddp"):
        quiet_trainer(tmp_path, devices=2)


@pytest.mark.parametrize(
    ("argument", "value", "nearest"),
    [
        ("accelerator", "cpuu", "cpu"),
        ("strategy", "single_devise", "single_device"),
        ("precision", "32-treu", "32-true"),
        ("logger", "csvv", "csv"),
        ("logger", ["csvv"], "csv"),
        ("profiler", "simpel", "simple"),
        ("callbacks", "EarlyStoping", "EarlyStopping"),
        ("callbacks", ["ModelCheckpiont"], "ModelCheckpoint"),
        ("plugins", ["torhc"], "torch"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, argument, value, nearest):
    name = value[0] if isinstance(value, list) else value
    with pytest.raises(MisconfigurationException, match=rf"There is no .* '{name}'; installed: .*{nearest}") as caught:
        quiet_trainer(tmp_path, **{argument: value})
    assert str(caught.value).endswith(f"Did you mean {nearest!r}?")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("accelerator", 7), ("strategy", 7), ("precision", 0.5), ("logger", 7), ("logger", [7]), ("profiler", 7),
        ("profiler", True), ("callbacks", [7]), ("callbacks", SmallModel()),
    ],
    ids=str,
)  # fmt: skip
def test_a_part_of_the_wrong_type_is_named(tmp_path, argument, value):
    shown = value[0] if isinstance(value, list) else value
    with pytest.raises(
        MisconfigurationException, match=rf"(?s)^{argument.removesuffix('s')}=.*{re.escape(repr(shown))}.*is no "
    ):
        quiet_trainer(tmp_path, **{argument: value})


def test_a_class_that_needs_arguments_can_not_be_named_alone(tmp_path):
    class Needy(pl.Callback):
        def __init__(self, monitor: str) -> None:
            self.monitor = monitor

    with pytest.raises(MisconfigurationException, match=r"The callback 'Needy' can't be built: .*'monitor'; give an"):
        quiet_trainer(tmp_path, callbacks=Needy)


def test_a_component_that_is_not_where_its_plugin_says(plugin_site, tmp_path):
    plugin_site.add(
        "acme-npu",
        """
        @hookimpl
        def leyden_components():
            yield Component("accelerator", "npu", "leyden.plugin_system.builtin:NPU.Accelerator")
        """,
    )
    target = r"leyden\.plugin_system\.builtin:NPU\.Accelerator"
    said = f"^The accelerator 'npu' should be '{target}', but module .* has no attribute 'NPU'; "
    with pytest.raises(MisconfigurationException, match=said):
        quiet_trainer(tmp_path, accelerator="npu")


@pytest.mark.parametrize("devices", [10**9, "999999999", "9" * 99])
def test_more_devices_than_there_can_be(tmp_path, devices):
    with pytest.raises(MisconfigurationException, match=rf"^devices={devices!r} .*; write"):
        quiet_trainer(tmp_path, devices=devices)


def test_an_accelerator_without_a_device(tmp_path):
    class NoDevice(CPUAccelerator):
        @classmethod
        def is_available(cls) -> bool:
            return False

    with pytest.raises(MisconfigurationException, match="finds no device on this machine"):
        quiet_trainer(tmp_path, accelerator=NoDevice())


# -- models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["training_step", "configure_optimizers"])
def test_a_model_that_can_not_be_trained(tmp_path, missing):
    class Model(Watched):
        pass

    setattr(Model, missing, getattr(pl.LightningModule, missing))
    refused(tmp_path, rf"^Model has no {missing}; define one for Trainer\.fit\.$", model=Model())


@pytest.mark.parametrize(("stage", "missing"), [("validate", "validation_step"), ("test", "test_step")])
def test_a_model_that_can_not_be_evaluated(tmp_path, stage, missing):
    class Model(Watched):
        pass

    setattr(Model, missing, getattr(pl.LightningModule, missing))
    refused(tmp_path, rf"^Model has no {missing}; define one for Trainer\.{stage}\.$", stage, Model())


def test_a_model_that_can_not_predict(tmp_path):
    class Model(pl.LightningModule):
        pass

    refused(tmp_path, r"^Model has no predict_step and no forward; define one", "predict", Model())


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_no_model(tmp_path, stage):
    refused(tmp_path, rf"^Trainer\.{stage}\(\) needs a LightningModule, and was given a Linear\.$", stage,
            torch.nn.Linear(2, 1), error=TypeError)  # fmt: skip


def test_a_model_that_does_not_initialise_its_base(tmp_path):
    class Model(SmallModel):
        def __init__(self) -> None:
            pass

    with pytest.raises(MisconfigurationException, match=r"^Model\.__init__ must call super\(\).__init__\(\) first"):
        quiet_trainer(tmp_path).fit(Model(), Batches())


@pytest.mark.parametrize("options", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}], ids=str)
def test_what_means_nothing_in_manual_optimisation(tmp_path, options):
    model = Watched()
    model.automatic_optimization = False
    refused(tmp_path, f"^{next(iter(options))}=.* has no meaning in manual optimisation", model=model, options=options)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda model: 7, "^configure_optimizers returned 7; return an optimizer"),
        (lambda model: {"lr_scheduler": None}, "^configure_optimizers returned a dict without 'optimizer'"),
        (lambda model: [sgd(model), sgd(model)], "^configure_optimizers returned 2 optimizers; with several, set"),
        (lambda model: plateau(model, monitor=None), "^ReduceLROnPlateau needs a metric"),
    ],
)  # fmt: skip
def test_what_configure_optimizers_may_not_return(tmp_path, returned, said):
    class Model(Watched):
        def configure_optimizers(self) -> Any:
            return returned(self)

    refused(tmp_path, said, model=Model(), touched=True)


def sgd(model: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0)


def plateau(model: Any, monitor: str | None) -> dict[str, Any]:
    """An optimizer whose rate waits for a metric."""
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}


@pytest.mark.parametrize(
    ("logged", "monitor", "said"),
    [
        (None, "val_loss", r"Plateau monitors 'val_loss', which was not logged \(logged: nothing\); log it with"),
        ("loss", "lsos", r"'lsos', which was not logged \(logged: 'loss'\); did you mean 'loss'\?$"),
    ],
)  # fmt: skip
def test_a_monitored_metric_that_was_never_logged(tmp_path, logged, monitor, said):
    class Model(SmallModel):
        def training_step(self, batch, batch_idx):
            if logged:
                self.log(logged, 1.0)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self):
            return plateau(self, monitor)

    with pytest.raises(MisconfigurationException, match=said):
        quiet_trainer(tmp_path, max_epochs=3).fit(Model(), Batches())


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("a loss", r"training_step returned 'a loss' of type str; return the loss as a tensor"),
        ({"acc": 1}, r"training_step returned a dict without 'loss', with: acc; return the loss as a tensor"),
    ],
)
def test_what_training_step_may_not_return(tmp_path, returned, said):
    model = SmallModel()
    model.training_step = lambda batch: returned
    with pytest.raises(MisconfigurationException, match=said):
        quiet_trainer(tmp_path).fit(model, Batches())


# -- data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("data", [7, [Batches(), 7], {"a": object()}], ids=["a number", "one of two", "in a dict"])
def test_a_loader_that_is_no_iterable(tmp_path, stage, data):
    loader = {"fit": "train", "validate": "val"}.get(stage, stage) + "_dataloader"
    refused(tmp_path, rf"^the {loader}s that were passed gave .* of type (int|object), which can't be iterated; give",
            stage, data=data, error=TypeError)  # fmt: skip


def test_a_validation_loader_that_is_no_iterable_is_refused_before_training(tmp_path):
    options = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2, "max_epochs": 2}
    refused(tmp_path, "the val_dataloaders that were passed gave 7 of type int", error=TypeError, options=options,
            val_dataloaders=7)  # fmt: skip


def test_a_hook_that_gives_no_iterable(tmp_path):
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> int:
            return 7

    with pytest.raises(
        TypeError, match=r"^Data\.train_dataloader\(\) gave 7 of type int, which can't be iterated; give"
    ):
        quiet_trainer(tmp_path).fit(SmallModel(), datamodule=Data())


@pytest.mark.parametrize("stage", STAGES)
def test_no_loader_at_all(tmp_path, stage):
    loader = {"fit": "train", "validate": "val"}.get(stage, stage) + "_dataloader"
    with pytest.raises(
        MisconfigurationException, match=rf"Trainer\.{stage} needs a {loader}: pass one, or define .* in Wa"
    ):
        getattr(quiet_trainer(tmp_path), stage)(Watched())


def test_loaders_and_a_data_module(tmp_path):
    refused(tmp_path, "^Both loaders and a datamodule were given; give one", datamodule=pl.LightningDataModule())


def test_what_is_no_data_module(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"^datamodule=7 is no LightningDataModule\.$"):
        quiet_trainer(tmp_path).fit(Watched(), datamodule=7)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_root_directory_that_is_a_file(tmp_path, kind):
    (tmp_path / "file").touch()
    with pytest.raises(MisconfigurationException, match=r"^default_root_dir=.*file.* must be the path of a directory"):
        quiet_trainer(kind(tmp_path / "file"))


def test_two_loggers_that_write_to_one_directory(tmp_path):
    """Known once the processes have agreed on the versions, so after ``prepare_data``."""
    options = {"logger": ["csv", "csv"]}
    refused(
        tmp_path, r"^Two loggers of type CSVLogger write to '.*version_0'; give each", options=options, touched=True
    )


# -- checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_checkpoint_that_does_not_exist(tmp_path, stage, kind):
    path = tmp_path / "nowhere" / "last.ckpt"
    refused(tmp_path, rf"^There is no checkpoint at ckpt_path='{re.escape(str(path))}'\.$", stage,
            error=FileNotFoundError, ckpt_path=kind(path))  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("path", [5, b"last.ckpt", ["last.ckpt"], True], ids=repr)
def test_a_checkpoint_that_is_no_path(tmp_path, stage, path):
    refused(tmp_path, rf"^ckpt_path={re.escape(repr(path))} is no path; write one, or", stage, error=TypeError,
            ckpt_path=path)  # fmt: skip


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_without_a_model_before_any_run(tmp_path, stage):
    with pytest.raises(
        TypeError, match=rf"^Trainer\.{stage}\(\) was called without a model, and no run has brought one"
    ):
        getattr(quiet_trainer(tmp_path), stage)(dataloaders=Batches())
