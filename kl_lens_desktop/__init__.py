"""KL Lens Desktop: make hybrid SSM-Transformer language models small and fast on Intel laptops."""

__version__ = "0.1.0"
