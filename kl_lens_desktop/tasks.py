"""The tasks a worker process can be asked for, by name; heavy libraries are imported only by the task that runs.

Each takes JSON-able parameters and yields typed events, the last of which is `Finished`.
"""
