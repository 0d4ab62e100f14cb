"""Leave out the blocks of a step that would add what they added before, on every rank or on none."""
