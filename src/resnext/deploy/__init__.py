"""Run a trained network on the fastest engine (PyTorch, ONNX Runtime, OpenVINO; int8) and publish it to a model hub."""
