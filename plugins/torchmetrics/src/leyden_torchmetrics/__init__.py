"""Metric objects of torchmetrics for Leyden: ``self.log`` takes them, and checkpoints keep them."""
