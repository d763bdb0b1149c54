"""The exporters behind ``to_onnx`` and ``to_torchscript``, for use of models without Leyden."""
