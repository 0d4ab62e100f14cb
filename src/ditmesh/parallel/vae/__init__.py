"""VAE parallelism: each rank encodes and decodes a band of rows."""
