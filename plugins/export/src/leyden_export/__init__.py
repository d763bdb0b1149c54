"""What a module computes, for use without Leyden: the exporters behind ``to_onnx`` and ``to_torchscript``."""
