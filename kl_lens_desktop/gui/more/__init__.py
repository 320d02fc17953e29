"""The pages beside the work: Library, Log and Settings."""
