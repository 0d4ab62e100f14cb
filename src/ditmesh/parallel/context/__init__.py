"""Context parallelism: each rank keeps a share of the tokens, and attends to those of all."""
