"""A device that PyTorch does not know, and its accelerator for Leyden: ``Trainer(accelerator="toy")``."""
