"""Pyramidal flow matching for video generation (arXiv:2410.05954), in JAX."""
