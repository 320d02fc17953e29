"""What the window is looking at, its one job, and what is remembered between starts."""
