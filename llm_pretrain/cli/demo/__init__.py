"""`make demo`: from no data at all to a trained LLaMA on two processes, in a few minutes."""
