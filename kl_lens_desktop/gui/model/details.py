"""What is known of the chosen model, on this computer or on the Hub, and whether it fits."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from kl_lens_desktop import quantities
from kl_lens_desktop.disk_space import free_bytes
from kl_lens_desktop.gui.kit import icons
from kl_lens_desktop.gui.kit.controls import (
    Elided,
    Picture,
    button,
    card,
    clear,
    column,
    label,
    row,
    rule,
)
from kl_lens_desktop.gui.state.session import BLOCK_NAMES, STAGE_NAMES, Model
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.model.fit import BENCH_FP16, StageNeed, fits, stage_needs

if TYPE_CHECKING:
    from kl_lens_desktop.hub.facts import Facts
    from kl_lens_desktop.repository.candidate import UsableRepository


class ModelDetails(QScrollArea):
    """The card of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setMinimumWidth(404)
        self.setAccessibleName(tr("About this model"))
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._inside = QVBoxLayout()
        self._inside.setSpacing(12)
        self.setWidget(card(self._inside, margins=16))

    def show_words(self, words: str) -> None:
        clear(self._inside)
        text = label(words, "secondary", wrap=True)
        self._inside.addWidget(text)
        self._inside.addStretch(1)

    def show_welcome(self, work_folder: Path, on_question: Callable[[], object]) -> None:
        """What this program does and what it does not, where no model is open yet."""
        clear(self._inside)
        self._inside.addWidget(label(tr("Welcome"), "title"))
        lines = (
            (
                "compress",
                tr("Models, smaller and faster"),
                tr(
                    "KL Lens measures how much each weight of a hybrid language model matters, "
                    "and stores those that matter little in fewer bits. Then it shows what that "
                    "brings and what it costs."
                ),
            ),
            (
                "pin",
                tr("Everything stays here"),
                tr(
                    "Nothing leaves this computer unless you search the Hugging Face Hub, "
                    "download from it, or upload a model yourself. There is no telemetry."
                ),
            ),
            (
                "folder",
                tr("Where things are"),
                tr(
                    "Downloads go to the cache that all Hugging Face programs share, results to "
                    "the work folder:"
                ),
            ),
        )
        for icon, heading, words in lines:
            text = column(label(heading, "heading"), label(words, "secondary", wrap=True), spacing=2)
            line = row(column(Picture(icon, "accent", 20), None), text, spacing=12)
            line.setStretch(1, 1)
            self._inside.addLayout(line)
        folder = Elided(str(work_folder), "secondary", Qt.TextElideMode.ElideMiddle)
        self._inside.addLayout(row(_gap(20), folder, spacing=12))
        start = tr(
            "To begin, choose a model on the left. The sample takes a few minutes and needs no network."
        )
        self._inside.addWidget(rule())
        self._inside.addWidget(label(start, wrap=True))
        self._inside.addLayout(row(button(tr("Questions and answers"), on_question), None))
        self._inside.addStretch(1)

    def show_model(self, model: Model, work_folder: Path) -> None:
        about = model.about
        clear(self._inside)
        self._inside.addWidget(Elided(str(about["id"]), "title", Qt.TextElideMode.ElideMiddle))
        blocks = QHBoxLayout()
        blocks.setSpacing(6)
        for kind, count in about["block_kinds"].items():
            blocks.addWidget(Picture(kind if kind in icons.KINDS else "mlp", "secondary", 14))
            blocks.addWidget(label(f"{count:,} {BLOCK_NAMES.get(kind, kind)}"))
            blocks.addSpacing(8)
        blocks.addStretch(1)
        matrices = model.matrices
        self._inside.addLayout(
            _facts(
                (tr("Architecture"), label(str(about["architecture"]), wrap=True, select=True)),
                (tr("Blocks"), blocks),
                (
                    tr("Weights"),
                    tr("{parameters} in {count:,} matrices").format(
                        parameters=quantities.parameters(about["parameters"]), count=len(matrices)
                    ),
                ),
                (tr("On disk"), quantities.size(about["size_bytes"])),
                (tr("Vocabulary"), tr("{count:,} tokens").format(count=about["vocabulary"])),
                (tr("Revision"), about.get("revision") or tr("local folder")),
                (tr("Folder"), str(about["folder"])),
            )
        )
        self._inside.addWidget(rule())
        self._inside.addWidget(label(tr("Does it fit this computer?"), "heading"))
        needs = [StageNeed(**need) for need in model.fit if need["stage"] != "download"]  # it is here already
        self._inside.addLayout(_fit_table(needs, work_folder))
        self._inside.addStretch(1)

    def show_hit(
        self, hit: "Facts", details: "UsableRepository | None", words: str, work_folder: Path
    ) -> None:
        clear(self._inside)
        self._inside.addWidget(Elided(hit.id, "title", Qt.TextElideMode.ElideMiddle))
        facts: list[tuple[str, Any]] = [
            (tr("Architecture"), hit.architecture or tr("not stated")),
            (tr("Weights"), quantities.parameters(hit.parameters) if hit.parameters else tr("not stated")),
            (tr("Downloads"), tr("{downloads:,} in the last 30 days").format(downloads=hit.downloads)),
            (tr("Access"), tr("on request (gated)") if hit.gated else tr("open")),
            (tr("Licence"), hit.licence or tr("not stated")),
        ]
        told = (
            (tr("Made from"), hit.base_model),
            (tr("Languages"), hit.languages),
            (tr("Updated"), hit.updated),
        )
        facts += [(name, value) for name, value in told if value]
        if details:
            facts += [
                (tr("Revision"), details.of.commit[:12]),
                (tr("To fetch"), quantities.size(details.bytes)),
            ]
            if details.tokenizer_of:
                facts += [
                    (
                        tr("Tokenizer"),
                        tr("of {tokenizer_of}: the model has none, its authors use this").format(
                            tokenizer_of=details.tokenizer_of
                        ),
                    )
                ]
        self._inside.addLayout(_facts(*facts))
        if words:
            self._inside.addWidget(label(words, "secondary", wrap=True))
        if details and hit.parameters:
            self._inside.addWidget(rule())
            self._inside.addWidget(label(tr("Does it fit this computer?"), "heading"))
            self._inside.addLayout(_fit_table(stage_needs(hit.parameters, details.bytes), work_folder))
        if details:
            self._inside.addWidget(rule())
            self._inside.addWidget(label(tr("Files"), "heading"))
            for file in sorted(details.files, key=lambda file: -file.size)[:12]:
                name = Elided(file.name, mode=Qt.TextElideMode.ElideMiddle)
                line = QHBoxLayout()
                line.addWidget(name, 1)
                line.addWidget(label(quantities.size(file.size), "secondary"))
                self._inside.addLayout(line)
        self._inside.addStretch(1)


def _gap(width: int) -> QWidget:
    gap = QWidget()
    gap.setFixedWidth(width)
    return gap


def _facts(*pairs: tuple[str, Any]) -> QGridLayout:
    grid = QGridLayout()
    grid.setHorizontalSpacing(16)
    grid.setVerticalSpacing(6)
    grid.setColumnStretch(1, 1)
    for index, (name, value) in enumerate(pairs):
        grid.addWidget(label(name, "secondary"), index, 0, Qt.AlignmentFlag.AlignTop)
        if isinstance(value, str):
            grid.addWidget(Elided(value, mode=Qt.TextElideMode.ElideMiddle), index, 1)
        elif isinstance(value, QWidget):
            grid.addWidget(value, index, 1)
        else:
            grid.addLayout(value, index, 1)
    return grid


def _fit_table(needs: list[StageNeed], work_folder: Path) -> QGridLayout:
    ram = psutil.virtual_memory().total
    disk = free_bytes(work_folder)
    grid = QGridLayout()
    grid.setHorizontalSpacing(16)
    grid.setVerticalSpacing(6)
    grid.setColumnStretch(0, 1)
    for place, heading in enumerate((tr("Stage"), tr("Peak RAM"), tr("Disk"), "")):
        grid.addWidget(label(heading, "secondary"), 0, place)
    for index, need in enumerate(needs, start=1):
        ram_need, disk_need = need.ram_mb * 2**20, need.disk_mb * 2**20
        fit = fits(need, work_folder)
        stage = STAGE_NAMES.get(need.stage, need.stage)
        cells = (
            Elided(stage),
            label(quantities.size(ram_need)),
            label(quantities.size(disk_need)),
            label(tr("✓ fits") if fit == "yes" else f"✗ {fit}", "good" if fit == "yes" else "bad"),
        )
        for place, cell in enumerate(cells):
            grid.addWidget(cell, index, place)
    words = tr("This computer has {ram} of memory and {disk} of free disk space.").format(
        ram=quantities.size(ram), disk=quantities.size(disk)
    )
    if any(need.stage == BENCH_FP16 and fits(need, work_folder) != "yes" for need in needs):
        words += " " + tr("Without FP16, a benchmark still compares the others.")
    grid.addWidget(label(words, "secondary", wrap=True), len(needs) + 1, 0, 1, 4)
    return grid
