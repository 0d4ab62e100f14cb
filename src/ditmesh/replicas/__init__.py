"""Gangs of ranks that draw requests: a supervisor that is no rank, and engines that start the ranks under it."""
