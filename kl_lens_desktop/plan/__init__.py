"""Which weight gets which format: allocation, files, baselines, and measurement of whole plans."""
