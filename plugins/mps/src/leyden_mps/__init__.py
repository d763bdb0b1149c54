"""The GPU of Apple silicon as an accelerator of Leyden."""
