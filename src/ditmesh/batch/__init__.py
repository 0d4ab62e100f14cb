"""The batch factory: prompt files in, pictures out."""
