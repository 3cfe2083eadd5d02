"""A finished run for other programs: torch.export, ONNX, a Hugging Face-style folder."""
