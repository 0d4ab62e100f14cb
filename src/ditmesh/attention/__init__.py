"""Attention across ranks: one seam to diffusers, Ulysses inside, Ring outside, and the kernels of one rank."""
