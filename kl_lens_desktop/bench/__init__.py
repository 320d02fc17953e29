"""Measuring exported models: devices, speed, quality and memory in child processes, and the report."""
