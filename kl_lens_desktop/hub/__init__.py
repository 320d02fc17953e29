"""Models from the Hugging Face Hub, a folder or the bundle, as a local folder that is whole and verified."""
