"""Read from a checkpoint only what this rank keeps."""
