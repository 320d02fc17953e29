"""A folder that loads and runs like an export of a model, with weights of any numbers.

What a format costs can be measured with it before anything is analyzed; nothing is rounded or checked.
"""

from pathlib import Path

import openvino as ov

from kl_lens_desktop.export.bundle import stateful_graph, write_small_files, write_tokenizer
from kl_lens_desktop.export.proof import as_exported
from kl_lens_desktop.export.stand_in import fill_with_stand_ins
from kl_lens_desktop.export.stateful import begin
from kl_lens_desktop.families import family_of
from kl_lens_desktop.files import MODEL_XML
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.quant.formats import parse_format


def write_speed_sample(source: Path, loaded: LoadedModel, name: str, folder: Path, cancel: Cancel) -> None:
    """Write the folder.

    Parameters
    ----------
    source : Path
        The model's folder.
    loaded : LoadedModel
        As `model.load.open_model` gives it.
    name : str
        The format of all weights.
    folder : Path
        Empty.
    """
    graph, states = stateful_graph(loaded.model)
    cancel.check()
    held = fill_with_stand_ins(graph, parse_format(name))
    if family_of(loaded.model.config.model_type).begins:
        with as_exported(loaded.model, {}, cancel):
            begin(graph, states, loaded.model)
    ov.save_model(graph, folder / MODEL_XML, compress_to_fp16=False)
    del graph, held
    cancel.check()
    write_small_files(source, loaded.model.generation_config, folder)
    write_tokenizer(loaded.tokenizer, folder)
