"""The model card of an exported folder, README.md: what it is, how to use it, and what was measured."""

from pathlib import Path
from typing import Any

from kl_lens_desktop.quantities import plural
from kl_lens_desktop.repository.names import is_owned_id

README = "README.md"
_BEGIN, _END = "<!-- measured by KL Lens -->", "<!-- end of what was measured -->"
_MOST_BYTES = 2**20


def base_model(about: dict[str, Any]) -> str:
    """The Hub id of the original, as an exported folder's ``kl_lens.json`` says; empty if it has none."""
    model = about.get("model")
    name = str(model.get("id", "")) if isinstance(model, dict) else ""
    return name if is_owned_id(name) else ""


def model_card(name: str, about: dict[str, Any], original: Path | None) -> str:
    """A card for an exported folder.

    Parameters
    ----------
    name : str
        The folder's name, for a model that came from no Hub.
    about : dict
        What ``kl_lens.json`` says.
    original : Path, optional
        The folder of the original, whose card states the licence.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base = base_model(about)
    data = ModelCardData(
        base_model=base or None,
        base_model_relation="quantized" if base else None,
        license=_licence(original) or None,
        library_name="openvino",
        pipeline_tag="text-generation",
        tags=["openvino", "nncf"],
    )
    audit = about.get("audit", {})
    counts = audit.get("formats", {}).items()
    formats = ", ".join(f"{plural(count, 'weight')} in {each}" for each, count in counts)
    origin = f"[{base}](https://huggingface.co/{base})" if base else "a local model"
    text = [
        f"# {plain(base.rpartition('/')[2] or name)} for OpenVINO",
        f"This is {origin}, compressed for OpenVINO by {plain(about.get('made_by', 'KL Lens Desktop'))}.",
        f"Formats: {plain(formats)}." if formats else "",
        f"{_BEGIN}\n{_END}",
        "## Use",
        "```python\nimport huggingface_hub, openvino_genai\n\n"
        'folder = huggingface_hub.snapshot_download("owner/name")  # of this repository\n'
        'pipeline = openvino_genai.LLMPipeline(folder, "CPU")\n'
        'print(pipeline.generate("The sea was", max_new_tokens=100))\n```',
        "`kl_lens.json` records how the export was checked, and the SHA-256 of every file.",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, text)) + "\n"))


def with_figures(card: str, figures: str) -> str:
    """The card with `figures` (Markdown) in their place; a card without that place stays as it is."""
    before, begin, rest = card.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    return f"{before}{begin}\n{figures}\n{end}{after}" if end else card


def read_card(folder: Path) -> str:
    """The card in an exported folder; empty if there is none, it is no text or it is huge."""
    path = folder / README
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= _MOST_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return ""


def plain(text: object) -> str:
    """Text of others without what Markdown obeys."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(str(text).split()))


def _licence(original: Path | None) -> str:
    """As the card of the original states it."""
    from huggingface_hub import ModelCard

    text = read_card(original) if original else ""
    if not text.startswith("---"):  # it says nothing that a program reads
        return ""
    try:
        licence = getattr(ModelCard(text, ignore_metadata_errors=True).data, "license", "")
    except ValueError:
        return ""
    return licence if isinstance(licence, str) else ""
