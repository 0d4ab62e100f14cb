"""One description of what to run with what, on which every verb stands: choose, check, load, share out, call."""
