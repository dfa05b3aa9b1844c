"""Engines: a loaded model and the loop that runs documents through it, one engine for each way of running."""
