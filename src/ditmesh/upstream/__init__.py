"""The seam: every private name of torch, diffusers, transformers and peft that we lean on."""
