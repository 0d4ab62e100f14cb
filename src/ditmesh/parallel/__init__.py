"""The strategies, one file each: ``apply_*`` changes a module in place and returns how to undo it."""
