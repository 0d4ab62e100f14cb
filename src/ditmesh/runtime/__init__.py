"""The ranks: how they are started, which of them work together, and what they send each other."""
