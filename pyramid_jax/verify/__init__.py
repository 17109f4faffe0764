"""Numbers recorded from the PyTorch code, and ours beside them."""
