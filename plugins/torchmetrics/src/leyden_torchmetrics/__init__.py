"""Support for torchmetrics in Leyden: ``self.log`` takes metric objects, and checkpoints keep their states."""
