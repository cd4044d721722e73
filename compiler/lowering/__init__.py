"""From quantised ONNX to integer kernels, an arena plan and C."""
