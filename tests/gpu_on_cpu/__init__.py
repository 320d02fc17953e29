"""OpenVINO's GPU plugin on a machine without a GPU: for right and wrong, never for speed."""
