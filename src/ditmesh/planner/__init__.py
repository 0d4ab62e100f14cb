"""What a layout would mean for a model, worked out without running it."""
