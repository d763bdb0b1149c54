"""The CPU as an accelerator of Leyden."""
