"""Models of other programs' steps, as traces, to try the planner on what they published."""
