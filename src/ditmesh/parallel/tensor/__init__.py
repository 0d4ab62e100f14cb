"""Tensor parallelism: each rank keeps a share of the weights."""
