"""What a layout costs, before anything is loaded: the program itself, run on tensors without memory."""
