"""What DeepSpeed is told, from arguments, files and the Trainer, and what is refused before a process starts."""

import json
import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import leyden as pl
from leyden.plugins import TorchCheckpointIO
from leyden.utilities.exceptions import CheckpointCorruptedError, MisconfigurationException
from leyden_deepspeed import config as configuration
from leyden_deepspeed import consolidate
from leyden_deepspeed.strategy import DeepSpeedStrategy
from leyden_testing.training import loader, quiet_trainer

from .deepspeed_model import Model, quiet

KNOWN = {
    "accumulate_grad_batches": 1, "gradient_clip_val": None, "precision": "32-true", "batch_size": 4, "world_size": 2,
    "loss_scaling": {},
}  # fmt: skip


def complete(config, **known):
    return configuration.complete(config, **{**KNOWN, **known})


@pytest.fixture
def _installed(monkeypatch):
    """DeepSpeed is there, as far as anybody looks who does not import it."""
    found = ModuleType("deepspeed")
    found.__spec__ = ModuleSpec("deepspeed", None)
    monkeypatch.setitem(sys.modules, "deepspeed", found)


@pytest.mark.parametrize(
    ("strategy", "twin"),
    [("deepspeed", "zero_2"), ("deepspeed_stage_1", "zero_1"), ("deepspeed_stage_2_offload", "zero_2"),
     ("deepspeed_stage_3", "zero_3"), ("deepspeed_stage_3_offload", "zero_3_offload")],
)  # fmt: skip
def test_without_deepspeed_the_error_names_it_and_what_needs_none(tmp_path, monkeypatch, strategy, twin):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MisconfigurationException, match=f"pip install deepspeed.*'{twin}' of leyden-sharded"):
        quiet(tmp_path, strategy=strategy, devices=2)


@pytest.mark.usefixtures("_installed")
def test_the_names_choose_stage_and_offloading(tmp_path):
    def zero(name):
        strategy = quiet(tmp_path, strategy=name, devices=2).strategy
        zero = strategy.config["zero_optimization"]
        assert strategy.stage == zero["stage"]
        return zero["stage"], "offload_optimizer" in zero, "offload_param" in zero

    assert zero("deepspeed") == zero("deepspeed_stage_2") == (2, False, False)
    assert zero("deepspeed_stage_1") == (1, False, False)
    assert zero("deepspeed_stage_1_offload") == (1, True, False)
    assert zero("deepspeed_stage_2_offload") == (2, True, False)
    assert zero("deepspeed_stage_3") == (3, False, False)
    assert zero("deepspeed_stage_3_offload") == (3, True, True)
    from leyden.strategies import DeepSpeedStrategy as published

    assert published is DeepSpeedStrategy


def test_arguments_have_lightnings_names_and_defaults():
    lightning = pytest.importorskip("pytorch_lightning.strategies")
    import inspect

    theirs = inspect.signature(lightning.DeepSpeedStrategy.__init__).parameters
    for name, default in configuration.OPTIONS.items():
        assert theirs[name].default == default, name
    ours = inspect.signature(DeepSpeedStrategy.__init__).parameters
    parts = {"accelerator", "parallel_devices", "cluster_environment", "precision_plugin"}  # the Trainer's
    assert set(theirs) - set(ours) - set(configuration.OPTIONS) - parts == {"load_full_weights"}


def test_arguments_go_into_their_sections():
    config = DeepSpeedStrategy(
        stage=3, allgather_bucket_size=7, offload_optimizer=True, offload_optimizer_device="nvme", nvme_path="/fast",
        partition_activations=True, queue_depth=3, logging_batch_size_per_gpu=5,
    ).config  # fmt: skip
    assert config["zero_optimization"]["allgather_bucket_size"] == 7
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "nvme"
    assert config["zero_optimization"]["offload_optimizer"]["nvme_path"] == "/fast"
    assert "offload_param" not in config["zero_optimization"]
    assert config["aio"]["queue_depth"] == 3
    assert config["activation_checkpointing"]["partition_activations"] is True
    assert config["train_micro_batch_size_per_gpu"] == 5
    assert config["zero_allow_untested_optimizer"] is True
    assert DeepSpeedStrategy(zero_optimization=False).config == {}


def test_a_configuration_comes_as_a_dict_a_file_or_by_a_variable(tmp_path, monkeypatch):
    given = {"zero_optimization": {"stage": 3}, "wall_clock_breakdown": True}
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(given))
    strategy = DeepSpeedStrategy(given)
    assert strategy.config == given
    assert strategy.config is not given
    assert DeepSpeedStrategy(config=path).config == DeepSpeedStrategy(config=str(path)).config == given
    monkeypatch.setenv("PL_DEEPSPEED_CONFIG_PATH", str(path))
    assert DeepSpeedStrategy().config == given
    assert DeepSpeedStrategy().stage == 3


def test_what_is_wrong_with_arguments_or_files_is_said(tmp_path):
    with pytest.raises(MisconfigurationException, match="no argument 'stages'"):
        DeepSpeedStrategy(stages=2)
    with pytest.raises(MisconfigurationException, match="stage=1 would not be used"):
        DeepSpeedStrategy({"zero_optimization": {"stage": 2}}, stage=1)
    with pytest.raises(MisconfigurationException, match=r"offload_parameters=True needs stage=3.*is 2"):
        DeepSpeedStrategy(stage=2, offload_parameters=True)
    with pytest.raises(MisconfigurationException, match=r"no DeepSpeed configuration at .*none\.json"):
        DeepSpeedStrategy(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(MisconfigurationException, match=r"broken\.json' is no JSON"):
        DeepSpeedStrategy(tmp_path / "broken.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(MisconfigurationException, match=r"must be a JSON object, and is \[1\]"):
        DeepSpeedStrategy(tmp_path / "list.json")


def test_the_trainer_fills_in_what_is_open():
    given = {"gradient_accumulation_steps": "auto", "train_batch_size": "auto", "bf16": {"enabled": "auto"}}
    found = complete(given, accumulate_grad_batches=3, gradient_clip_val=0.5, precision="bf16-mixed")
    assert found == {
        "gradient_accumulation_steps": 3, "gradient_clipping": 0.5, "train_micro_batch_size_per_gpu": 4,
        "bf16": {"enabled": True},
    }  # fmt: skip
    assert given["gradient_accumulation_steps"] == "auto"
    assert complete({}, batch_size=None)["train_micro_batch_size_per_gpu"] == 1
    assert configuration.dtype(found) == torch.bfloat16
    assert configuration.dtype(complete({"bf16": {"enabled": "auto"}})) is None


def test_the_configuration_says_what_the_trainer_leaves_open():
    given = {"gradient_clipping": 2.0, "train_micro_batch_size_per_gpu": 16, "steps_per_print": 5}
    found = complete(given, batch_size=None)
    assert {key: found[key] for key in given} == given
    assert complete({"train_batch_size": 8})["train_batch_size"] == 8


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_float16_scales_the_loss_as_asked(precision):
    found = complete({"fp16": {"hysteresis": 4}}, precision=precision, loss_scaling={"loss_scale": 128})["fp16"]
    assert found == {
        "enabled": True, "loss_scale": 128, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 4,
        "min_loss_scale": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "known", "message"),
    [
        ({"gradient_accumulation_steps": 4}, {}, "gradient_accumulation_steps=4, but accumulate_grad_batches is 1"),
        ({"gradient_clipping": 1.0}, {"gradient_clip_val": 0.5}, "gradient_clipping=1.0, but gradient_clip_val is 0.5"),
        ({"train_micro_batch_size_per_gpu": 3}, {}, "gpu=3, but the loader's batch_size is 4"),
        ({"train_batch_size": 9}, {}, "train_batch_size=9, but 2 processes with batches of 4 .* make 8"),
        ({"bf16": {"enabled": True}}, {}, "bf16.enabled=True, but the Trainer's precision is '32-true'"),
        ({"bf16": {"enabled": False}}, {"precision": "bf16-mixed"}, "bf16.enabled=False, but .* 'bf16-mixed'"),
        ({"fp16": {"enabled": True}}, {"precision": "bf16-mixed"}, "fp16.enabled=True, but .* 'bf16-mixed'"),
        ({}, {"precision": "64-true"}, "'64-true' is not supported by DeepSpeed"),
        ({"managed_gradient_accumulation": False}, {}, "managed_gradient_accumulation=false"),
    ],
)
def test_where_the_two_disagree_it_is_said(config, known, message):
    with pytest.raises(MisconfigurationException, match=message):
        complete(config, **known)


@pytest.mark.usefixtures("_installed")
def test_disagreement_is_said_when_the_trainer_is_made(tmp_path):
    with pytest.raises(MisconfigurationException, match="accumulate_grad_batches is 2"):
        quiet(
            tmp_path, devices=2, accumulate_grad_batches=2,
            strategy=DeepSpeedStrategy({"gradient_accumulation_steps": 4}),
        )  # fmt: skip
    with pytest.raises(MisconfigurationException, match='"value" is not supported by DeepSpeed'):
        quiet(tmp_path, devices=2, strategy="deepspeed", gradient_clip_val=1.0, gradient_clip_algorithm="value")
    with pytest.raises(MisconfigurationException, match="precision='64-true'"):
        quiet(tmp_path, devices=2, strategy="deepspeed", precision="64-true")


def test_other_strategies_are_left_alone(tmp_path):
    trainer = quiet(tmp_path, precision="64-true", max_epochs=1)
    trainer.fit(Model(), loader(4), loader(2))
    assert trainer.global_step == 2


def test_what_is_no_checkpoint_of_deepspeeds_is_not_consolidated(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    assert consolidate.main([str(tmp_path / "other"), str(tmp_path / "whole.ckpt")]) == 1
    assert "is no checkpoint of strategy='deepspeed'" in capsys.readouterr().err
    assert not (tmp_path / "whole.ckpt").exists()


def test_a_checkpoint_that_is_not_to_be_unpickled_or_is_anothers_is_refused(tmp_path):
    strategy = DeepSpeedStrategy()
    strategy.checkpoint_io = TorchCheckpointIO()
    written = tmp_path / "run.ckpt"
    written.mkdir()
    with pytest.raises(MisconfigurationException, match=r"run\.ckpt' is a directory: it is no checkpoint"):
        strategy.load_checkpoint(str(written))
    torch.save({"checkpoint": {}, "shards": "shards-1"}, written / "leyden.ckpt")
    (written / "shards-1").mkdir()
    with pytest.raises(MisconfigurationException, match=r"run\.ckpt' is a directory: it is "):  # leyden-sharded's
        strategy.load_checkpoint(str(written))
    (written / "shards-1").rename(written / "checkpoint")
    for stored, error, said in (
        ([1], MisconfigurationException, "no checkpoint of a run"),
        ({"state_dict": {}}, CheckpointCorruptedError, "does not say which engine wrote it"),
    ):
        torch.save(stored, written / "leyden.ckpt")
        with pytest.raises(error, match=said):
            strategy.load_checkpoint(str(written))
    with pytest.raises(MisconfigurationException, match=r"weights_only=True forbids .* pickles"):
        strategy.load_checkpoint(str(written), weights_only=True)


def test_where_a_file_is_needed_the_directory_is_named_with_the_command_that_makes_one(tmp_path):
    for place in ("run.ckpt/checkpoint", "others/step1", "mine"):
        (tmp_path / place).mkdir(parents=True)
    torch.save({}, tmp_path / "run.ckpt" / "leyden.ckpt")
    (tmp_path / "others" / "step1" / "mp_rank_00_model_states.pt").touch()
    for name, said in (
        ("run.ckpt", r"it is a checkpoint of strategy='deepspeed', .*leyden_deepspeed\.consolidate .*run\.ckpt whole"),
        ("others", r"it is a checkpoint that DeepSpeed wrote, but not under Leyden, .*zero_to_fp32\.py"),
        ("mine", "it is no checkpoint that an installed plugin knows"),
    ):
        with pytest.raises(MisconfigurationException, match=rf"{name}' is a directory: {said}"):
            Model.load_from_checkpoint(tmp_path / name)
        with pytest.raises(MisconfigurationException, match=rf"{name}' is a directory: {said}"):
            quiet(tmp_path).validate(Model(), loader(4), ckpt_path=tmp_path / name)


def test_a_directory_that_is_no_checkpoint_of_deepspeeds_is_not_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").touch()
    with pytest.raises(MisconfigurationException, match=r"home' is a directory and no checkpoint .*not replaced"):
        DeepSpeedStrategy()._save_directory({}, tmp_path / "home")
    assert (tmp_path / "home" / "thesis.txt").exists()


def test_fabric_is_told_to_take_the_twin():
    with pytest.raises(MisconfigurationException, match="this is a Linear; with Fabric write strategy='zero_2'"):
        DeepSpeedStrategy().setup_module(torch.nn.Linear(1, 1))
    assert issubclass(Model, pl.LightningModule)


@pytest.mark.parametrize("stage", [2, 3])
def test_stage_3_refuses_an_evaluation_in_which_a_process_has_fewer_batches(monkeypatch, stage):
    strategy = DeepSpeedStrategy(stage=stage)
    trainer = SimpleNamespace(num_val_batches=[1], num_test_batches=[2], num_predict_batches=[1])
    strategy._module = SimpleNamespace(trainer=trainer)
    monkeypatch.setattr(strategy, "all_gather_object", lambda own: [own, own])
    strategy.on_test_start()
    monkeypatch.setattr(strategy, "all_gather_object", lambda own: [own, [0]])
    for what, start in (
        ("1 and 0 validation", strategy.on_validation_start),
        ("1 and 0 predict", strategy.on_predict_start),
    ):
        with pytest.raises(MisconfigurationException, match=what) if stage == 3 else nullcontext():
            start()


@pytest.mark.filterwarnings("ignore:Hyperparameters of Sealing", "ignore:The checkpoint has values")
def test_a_consolidated_checkpoint_keeps_what_is_sealed(tmp_path):
    """DeepSpeed itself is not needed for files of stage 0."""
    trainer = quiet_trainer(tmp_path)
    trainer.fit(Sealing(Path("x"), torch.relu), loader(2), loader(2))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    rest = {**torch.load(tmp_path / "one.ckpt", weights_only=True), "deepspeed": {"stage": 0, "world_size": 1}}
    engine = tmp_path / "run.ckpt" / "checkpoint"
    engine.mkdir(parents=True)
    torch.save({"module": rest.pop("state_dict")}, engine / "mp_rank_00_model_states.pt")
    torch.save({**rest, "state_dict": {}}, tmp_path / "run.ckpt" / "leyden.ckpt")
    consolidate.consolidate(str(tmp_path / "run.ckpt"), str(tmp_path / "whole.ckpt"))
    with pytest.raises(MisconfigurationException, match=r"act \(a .*weights_only=False"):
        Sealing.load_from_checkpoint(tmp_path / "whole.ckpt")
    loaded = Sealing.load_from_checkpoint(tmp_path / "whole.ckpt", weights_only=False)
    assert dict(loaded.hparams) == {"root": Path("x"), "act": torch.relu}


class Sealing(Model):
    def __init__(self, root, act):
        super().__init__()
        self.save_hyperparameters()
