"""Processes and what passes between them: their groups, the collectives, the watch over ranks."""
