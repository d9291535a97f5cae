"""What a run will take, before it starts: memory and time of a layout, and the best layouts."""
