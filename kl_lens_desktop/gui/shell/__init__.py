"""The window around the pages: its frame, its start, and what is kept of a crash."""
