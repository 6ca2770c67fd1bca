"""What computes a network: OpenVINO, ONNX Runtime or torch, each behind the same protocol, and a choice."""
