"""Which tests stay on one worker, and which ones `launch.py test --fast` leaves out."""

# Made once for a file and dear: all tests of the file that use one run on the same worker.
TOGETHER = {"loaded", "bench", "poor", "events", "benched", "chooser", "stressed", "motley", "experts"}

# Whoever uses one of these waits for an analysis, an export or the emulated GPU.
WHOLE_FIXTURES = {
    "sample_ir",
    "export_sample",
    "emulated_gpu",
    "stressed",
    "motley",
    "experts",
    "chooser",
    "events",
    "benched",
}

# Tests of more than about a second, by file.
WHOLE: set[str] = set()
