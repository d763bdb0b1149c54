"""Local SGD in two processes, compared with the same computation written out in one process."""

import copy

import pytest
import torch
from local_model import Line, SaveAfter, Validated, rows, trained
from torch import nn

import leyden as pl
from leyden.utilities import MisconfigurationException
from leyden_local_sgd.strategy import LocalSGDStrategy


def flat(model):
    return model.layer.weight.detach().flatten().tolist()


def by_hand(every):
    """Train two models on 8 batches, average them every few batches, and return the weights after each batch."""
    models = [Line(momentum=0.9), Line(momentum=0.9)]
    optimizers = [model.configure_optimizers() for model in models]
    samples = rows().dataset.tensors
    seen = [[], []]
    for step in range(8):
        for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            place = slice(step % 4 * 8 + rank, step % 4 * 8 + 8, 2)
            optimizer.zero_grad()
            model.loss([tensor[place] for tensor in samples]).backward()
            optimizer.step()
        if step % every == every - 1:
            mean(models, optimizers)
        for model, weights in zip(models, seen, strict=True):
            weights.append(flat(model))
    mean(models, optimizers)
    return seen, models[0].state_dict()


@torch.no_grad()
def mean(models, optimizers):
    lists = [
        [*model.state_dict().values(), *(optimizer.state[p]["momentum_buffer"] for p in model.parameters())]
        for model, optimizer in zip(models, optimizers, strict=True)
    ]
    for pair in zip(*lists, strict=True):
        if pair[0].is_floating_point():
            middle = (pair[0] + pair[1]) / 2
            for tensor in pair:
                tensor.copy_(middle)


def near(one, other):
    torch.testing.assert_close(torch.tensor(one), torch.as_tensor(other), rtol=1e-5, atol=1e-6)


def test_processes_train_on_their_own_and_meet_every_few_steps(tmp_path):
    seen, final = by_hand(every=3)
    reports = trained(tmp_path, Line(momentum=0.9), strategy=LocalSGDStrategy(3, start_method="spawn"))
    assert [one == other for one, other in zip(reports[0]["seen"], reports[1]["seen"], strict=True)] == [
        False, False, True, False, False, True, False, False,
    ]  # fmt: skip
    for report, expected in zip(reports, seen, strict=True):
        near(report["seen"], expected)
        assert report["state"] == reports[0]["state"]
        for name, value in report["state"].items():
            near(value, final[name])


def test_a_resumed_run_is_the_one_that_saved_and_evaluation_sees_one_model(tmp_path):
    saved = tmp_path / "amid.ckpt"
    arguments = {"strategy": LocalSGDStrategy(4, start_method="spawn"), "val": rows(8)}
    whole = trained(tmp_path / "whole", Validated(momentum=0.9), callbacks=[SaveAfter(saved, 6)], **arguments)
    arguments["strategy"] = LocalSGDStrategy(4, start_method="spawn")
    resumed = trained(tmp_path / "resumed", Validated(momentum=0.9), ckpt_path=saved, **arguments)
    for rank in range(2):
        assert resumed[rank]["seen"] == whole[rank]["seen"][6:]
        assert resumed[rank]["state"] == whole[0]["state"]
    assert whole[0]["seen"][-1] != whole[1]["seen"][-1]
    assert [whole[0]["validated"][-1]] == [whole[1]["validated"][-1]] == whole[0]["state"]["layer.weight"]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "3"])
def test_what_is_no_number_of_steps_is_refused(every):
    with pytest.raises(MisconfigurationException, match=r"^average_every=.* at least 1\.$"):
        LocalSGDStrategy(every)


def test_synchronised_batch_norm_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"sync_batchnorm=True.*local SGD"):
        LocalSGDStrategy().convert_sync_batchnorm(copy.deepcopy(nn.BatchNorm1d(2)))


def test_it_is_found_by_its_names(tmp_path):
    from leyden.strategies import LocalSGDStrategy as found

    assert found is LocalSGDStrategy
    for name, method in (("local_sgd", "popen"), ("local_sgd_spawn", "spawn")):
        trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=name, logger=False, default_root_dir=tmp_path)
        assert isinstance(trainer.strategy, LocalSGDStrategy)
        assert trainer.strategy.start_method == method
