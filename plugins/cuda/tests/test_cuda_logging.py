"""``self.log`` on a real GPU never waits for the device; PyTorch's synchronization check would raise an error."""

import pytest
import torch
from torch.utils.data import DataLoader

import leyden as pl

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class Logging(pl.LightningModule):
    def __init__(self, **options):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.options = options

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.log("loss", loss, **self.options)
            self.log_dict({"constant": 1.0, "index": batch_idx}, **self.options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("reduction", ["mean", "min", "max", "sum", torch.std])
def test_logging_never_waits_for_the_device(tmp_path, reduction):
    trainer = pl.Trainer(
        accelerator="cuda", devices=1, max_epochs=2, default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(
        Logging(on_step=True, on_epoch=True, prog_bar=True, reduce_fx=reduction), DataLoader(torch.rand(8, 4), 2)
    )
    assert trainer.callback_metrics["loss_epoch"] >= 0
