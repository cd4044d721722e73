"""Pure data that every part relies on; imports numpy, onnx and onnx_ir only."""
