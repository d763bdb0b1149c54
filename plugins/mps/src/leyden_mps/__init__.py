"""The accelerator of Leyden for the GPU of Apple silicon."""
