"""Ranks that are set up differently: refused on all of them with what differs, or harmless."""

import os

import pytest

import leyden as pl
from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, Timer
from leyden.loggers import CSVLogger
from leyden_testing.ranks import on_ranks
from leyden_testing.reporting import Validated, loader
from leyden_testing.training import quiet_trainer


def attempt(root, options, stage="fit", path=None):
    """What each rank says that it refuses, or the weights that it comes to."""
    rank = int(os.environ["RANK"])
    own = {name: value(rank, root) if callable(value) else value for name, value in options.items()}
    trainer = quiet_trainer(root, **{"devices": 2, "strategy": "ddp", "max_epochs": 2, **own})
    model = Validated()
    try:
        if stage == "fit" or (callable(stage) and stage(rank) == "fit"):
            trainer.fit(model, loader(8), loader(4), ckpt_path=path(rank, root) if path else None)
        else:
            trainer.validate(model, loader(4), verbose=False)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return {name: value.tolist() for name, value in model.state_dict().items()}


def second(value, other=None):
    """An argument that only rank 1 has."""
    return lambda rank, root: value if rank else other


DIFFERENT = {
    "accumulate_grad_batches is 1 on rank 0 and 2 on rank 1": {"accumulate_grad_batches": second(2, 1)},
    "gradient_clip_val is None on rank 0 and 0.5 on rank 1": {"gradient_clip_val": second(0.5)},
    "max_epochs is 2 on rank 0 and 3 on rank 1": {"max_epochs": second(3, 2)},
    "limit_val_batches is 1.0 on rank 0 and 0 on rank 1": {"limit_val_batches": second(0, 1.0)},
    "precision is Precision(32-true) on rank 0 and MixedPrecision(bf16-mixed)": {"precision": second("bf16-mixed")},
    "strategy is DDPStrategy on rank 0 and FSDPStrategy on rank 1": {"strategy": second("fsdp", "ddp")},
    "the callback ModelCheckpoint is absent on rank 0 and (": {
        "callbacks": second([ModelCheckpoint(every_n_train_steps=1)]), "enable_checkpointing": second(True, False),
    },
    "the callback Timer is absent on rank 0 and (": {"callbacks": second([Timer("00:00:10:00")])},
    "EarlyStopping is (monitor='val_loss') on rank 0 and (monitor='val_loss', patience=4) on rank 1": {
        "callbacks": lambda rank, root: [EarlyStopping("val_loss", patience=3 + rank)]
    },
}  # fmt: skip


@pytest.mark.parametrize("said", DIFFERENT)
def test_what_would_hang_or_drift_apart_is_refused_on_all_ranks(tmp_path, said):
    found = on_ranks(2, attempt, tmp_path, DIFFERENT[said])
    assert found[0] == found[1]
    assert found[0].startswith("MisconfigurationException: The ranks are set up differently: ")
    assert said in found[0]
    assert found[0].endswith(". Give all ranks the same.")


def test_other_calls_are_refused(tmp_path):
    found = on_ranks(2, attempt, tmp_path, {}, lambda rank: "validate" if rank else "fit")
    assert [said.count("the call is fit on rank 0 and validate on rank 1") for said in found] == [1, 1]


def test_numbers_of_devices_that_differ_are_named_at_once(tmp_path, monkeypatch):
    def attempt_of_size(root):
        os.environ.pop("WORLD_SIZE")  # as where processes are started by hand without it
        return attempt(root, {"devices": second(3, 2)})

    found = on_ranks(2, attempt_of_size, tmp_path)
    assert [said.startswith("MeetingError: Rank ") for said in found] == [True, True]
    assert any("one of 3 processes by its devices" in said or "one of 3; give all ranks" in said for said in found)


def test_rank_zero_says_where_a_fit_goes_on(tmp_path):
    trainer = quiet_trainer(tmp_path)
    trainer.fit(Validated(), loader(4), loader(4))
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    resumed = on_ranks(2, attempt, tmp_path, {}, "fit", second(str(tmp_path / "some.ckpt")))
    assert resumed == on_ranks(2, attempt, tmp_path, {})


HARMLESS = {
    "a logger on rank 0": {
        "logger": lambda rank, root: False if rank else CSVLogger(root / "logs"),
        "callbacks": lambda rank, root: [LearningRateMonitor()],
        "enable_checkpointing": True,
    },
    "a logger on rank 1": {"logger": lambda rank, root: CSVLogger(root / "logs") if rank else False},
    "other loggers": {
        "logger": lambda rank, root: [CSVLogger(root / "a"), CSVLogger(root / "b")] if rank else [CSVLogger(root / "c")]
    },
    "what shows and measures": {
        "log_every_n_steps": second(1),
        "detect_anomaly": second(True, False),
        "default_root_dir": lambda rank, root: root / str(rank),
        "callbacks": lambda rank, root: [] if rank else [pl.Callback()],
        "enable_model_summary": second(True, False),
    },
    "the directory and name of checkpoints": {
        "callbacks": lambda rank, root: [
            ModelCheckpoint(root / f"of-{rank}", filename=f"at-{rank}", verbose=bool(rank))
        ],
        "enable_checkpointing": True,
    },
}


@pytest.mark.filterwarnings("ignore:An epoch has", "ignore:Checkpoint directory")
@pytest.mark.parametrize("what", HARMLESS)
def test_what_only_shows_may_differ(tmp_path, what):
    first, other = on_ranks(2, attempt, tmp_path, HARMLESS[what])
    assert first == other
    assert isinstance(first, dict), first
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.c*"))
    if what == "a logger on rank 0":
        logs = "logs/lightning_logs/version_0"
        assert files == [f"{logs}/checkpoints/epoch=1-step=4.ckpt", f"{logs}/metrics.csv"]
    if what == "the directory and name of checkpoints":
        assert files == ["of-0/at-0.ckpt"]
