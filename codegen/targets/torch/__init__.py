"""Plain PyTorch: every device, eager or compiled, differentiable as often as needed."""
