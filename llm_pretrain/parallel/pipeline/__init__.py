"""A step through the ranks of a pipeline: its schedules, and who carries them out."""
