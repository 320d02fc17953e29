"""What the measures of a score file or of a verified plan are called, and their units. Needs no torch."""

NAMES = {
    "kl_pq": ("KL full‖quantized", "nats"),
    "kl_qp": ("KL quantized‖full", "nats"),
    "mse": ("Logit error (MSE)", ""),
    "sqnr_db": ("SQNR", "dB"),
    "delta_ce": ("ΔCE", "nats"),
    "top1_agreement": ("Top-1 agreement", ""),
    "perplexity": ("Perplexity", ""),
    "perplexity_full": ("Perplexity in full precision", ""),
}


def with_unit(key: str) -> str:
    """``KL full‖quantized, nats per token`` for ``kl_pq``."""
    name, unit = NAMES[key]
    if unit == "nats":
        unit = "nats per token"
    return f"{name}, {unit}" if unit else name
