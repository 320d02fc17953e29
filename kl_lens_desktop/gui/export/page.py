"""Export: what will be written and how large, the writing, and the check of every weight."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QBrush, QColor
from PySide6.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QLineEdit,
    QStackedWidget,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from kl_lens_desktop import quantities
from kl_lens_desktop.bench.answers import answer_words
from kl_lens_desktop.errors import InputError
from kl_lens_desktop.exporting import ExportJob
from kl_lens_desktop.files import check_writable
from kl_lens_desktop.gui.export.upload import UploadDialog
from kl_lens_desktop.gui.kit import theme
from kl_lens_desktop.gui.kit.controls import (
    Empty,
    Frame,
    JobButton,
    NumberDelegate,
    Page,
    align_heading,
    button,
    card,
    column,
    label,
    row,
    set_up_table,
    with_heading,
)
from kl_lens_desktop.gui.kit.desktop import open_folder
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.session import MISSING, Model, Session
from kl_lens_desktop.gui.state.stages import PLAN, is_stale_export
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.plan.document import save_plan
from kl_lens_desktop.quant.activations import LARGEST
from kl_lens_desktop.quant.formats import parse_format, stored_bytes

BASELINES = ("fp16", "int8_sym", "int4_sym_g64")
HEADINGS = (tr("Write"), tr("What it is"), tr("Predicted size"), tr("On disk"), tr("Checked"))


@dataclass(frozen=True, slots=True)
class ExportChoice:
    """One model to be written: the plan, or a uniform format to hold beside it."""

    name: str
    title: str
    words: str
    bytes: int | None


class ExportPage(Page):
    """The plan and its baselines as OpenVINO models."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("Write OpenVINO models"))
        self._window = window
        self._folder: Path | None = None
        self._chosen = {PLAN: True, **dict.fromkeys(BASELINES, True)}
        self.stack = QStackedWidget()
        self.stack.addWidget(
            Empty(
                "export",
                tr("No model open"),
                tr(
                    "Write the plan here, and uniform formats for comparison, as folders that "
                    "OpenVINO GenAI can open."
                ),
                button(tr("Choose a model"), lambda: window.show_page("Model"), "primary"),
            )
        )
        self.stack.addWidget(self._make_body())
        self.body.addWidget(self.stack, 1)
        self.export = JobButton(
            tr("Export"),
            session,
            self._missing,
            self._export,
            tr("Write the chosen models and check every weight (F5)"),
            "primary",
        )
        self.next = button(tr("Benchmark →"), lambda: window.show_page("Benchmark"))
        self.lead_back("Plan", window.show_page)
        why = self.add_reason()
        why.set_text(self.export.reason)
        self.export.explained.connect(why.set_text)
        self.upload = button(
            tr("Upload to the Hub…"), self._upload, tip=tr("See what would be uploaded first")
        )
        self.foot.addWidget(self.upload)
        self.foot.addWidget(self.export)
        self.foot.addWidget(self.next)
        session.model_changed.connect(self._new_model)
        session.plan_changed.connect(self._show)
        session.exports_changed.connect(self._show)
        session.devices_changed.connect(self._take_devices)
        session.job.started.connect(lambda _: self._show())
        session.job.ended.connect(lambda _: self._show())
        self.tell_stage("Export")
        self._new_model()

    def start(self) -> None:
        self.export.click()

    @property
    def folder(self) -> Path:
        """Where the variants' folders go."""
        return self._folder or self.session.workspace.folder

    def variants(self) -> list[ExportChoice]:
        """What can be written for the open model."""
        model, plan = self.session.model, self.session.plan
        if model is None:
            return []
        counts: dict[str, int] = {}
        for name in plan.assignments.values() if plan else ():
            counts[parse_format(name).label] = counts.get(parse_format(name).label, 0) + 1
        words = ", ".join(
            f"{count:,} × {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1])
        )
        size = weight_bytes(model, plan.assignments) if plan else None
        own = ExportChoice(PLAN, tr("The plan"), words or tr("no plan yet"), size)
        uniform = [
            ExportChoice(
                name,
                parse_format(name).label,
                tr("full precision") if name == "fp16" else tr("one format for all"),
                weight_bytes(model, {w["name"]: name for w in model.matrices}),
            )
            for name in BASELINES
        ]
        return [own, *uniform]

    def choose(self, name: str, wanted: bool) -> None:
        """Mark a variant to be written or not."""
        self._chosen[name] = wanted
        self._show()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "export"):
            self._show()  # the words' colours belong to the scheme

    def _make_body(self) -> QWidget:
        self.table = QTableWidget(0, len(HEADINGS))
        self.table.setHorizontalHeaderLabels(HEADINGS)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        set_up_table(self.table, tr("Models to write"), stretch=1)
        numbers = NumberDelegate(self.table)
        for place, width in ((0, 112), (2, 116), (3, 84), (4, 264)):
            self.table.setColumnWidth(place, with_heading(self.table, place, width))
        for place in (2, 3):
            self.table.setItemDelegateForColumn(place, numbers)
            align_heading(self.table, place)
        self.table.itemChanged.connect(self._toggled)
        self.path = QLineEdit()
        self.path.setReadOnly(True)
        self.path.setAccessibleName(tr("Folder to write into"))
        self.choose_button = button(tr("Choose…"), self._choose_folder, tip=tr("Choose another folder"))
        self.open_button = button(tr("Open folder"), self._open_folder)
        where = row(label(tr("Into"), "secondary"), self.path, self.choose_button, self.open_button)
        where.setStretch(1, 1)
        self.npu = QCheckBox(tr("Add a graph for an NPU, with the same weights"))
        self.npu.setToolTip(
            tr(
                "An NPU accepts only graphs with fixed shapes. They are made from a second "
                "graph, which adds a few MB and doubles the time of the export. Selected "
                "automatically if an NPU is found."
            )
        )
        self.paged = QCheckBox(tr("For servers: continuous batching and a prefix cache"))
        self.paged.setToolTip(
            tr(
                "The graph then runs on OpenVINO's paged backend, as OpenVINO Model Server "
                "uses it by default. Prompts are read more slowly than without."
            )
        )
        self.coarse = QCheckBox(tr("Faster on the CPU, less exact: coarser rounding of activations"))
        self.coarse.setToolTip(
            tr(
                "On the CPU, OpenVINO rounds what the weights are multiplied with to 8 bits, in groups "
                "of 32. Groups of 64 or 128, as the formats allow, take up to 15 % less time on processors "
                "with AVX-VNNI, such as Lunar Lake's. Plans that are rounded by data lose little by it; "
                "uniform formats can lose more, where a few channels are large. See the benchmark. "
                "A GPU takes the option, too; its speed was not measured there."
            )
        )
        self.total = label("", "secondary", wrap=True)
        npu = column(self.npu, self.paged, self.coarse, spacing=4)
        npu.setContentsMargins(5, 0, 0, 0)  # below the boxes of the table
        body = card(column(where, self.table, npu, self.total, spacing=12))
        inside = QWidget()
        note = label(
            tr(
                "Each model becomes a folder with its graph, weights, tokenizer and plan. "
                "The folder appears after every weight matches the plan and the graph "
                "answers a prompt like the original model. Then each GPU and NPU answers the "
                "same prompt."
            ),
            "secondary",
            wrap=True,
        )
        inside.setLayout(column(note, body, spacing=12))
        inside.layout().setStretch(1, 1)  # type: ignore[union-attr]
        return inside

    def _take_devices(self) -> None:
        found = (d for d in self.session.devices if d["available"] and d["name"].startswith("NPU"))
        self.npu.setChecked(any(found) or self.npu.isChecked())

    def _new_model(self) -> None:
        self._folder = None
        self.stack.setCurrentIndex(1 if self.session.model else 0)
        self._show()

    def _show(self) -> None:
        variants = self.variants()
        self.table.blockSignals(True)
        self.table.setRowCount(len(variants))
        for index, variant in enumerate(variants):
            for place, item in enumerate(self._cells(variant)):
                self.table.setItem(index, place, item)
        self.table.blockSignals(False)
        if self.session.model is not None:
            self.path.setText(str(self.folder))
        chosen = [v for v in variants if self._writes(v)]
        size = sum(v.bytes or 0 for v in chosen)
        self.total.setText(
            tr("{count}, together about {size}.").format(
                count=quantities.plural(len(chosen), "model"), size=quantities.size(size)
            )
            if chosen
            else tr("Nothing chosen.")
        )
        self.next.setEnabled(bool(self.session.exports))
        self.next.setToolTip(plain_tip("" if self.session.exports else tr("Export at least one model first")))
        for control in (self.choose_button, self.npu, self.paged, self.coarse):
            control.setEnabled(not self.session.job.running)
        self.upload.setEnabled(bool(self.session.exports) and not self.session.job.running)
        self.export.refresh()

    def _cells(self, variant: ExportChoice) -> list[QTableWidgetItem]:
        check = QTableWidgetItem(variant.title)
        flags = Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsSelectable
        usable = variant.bytes is not None and not self.session.job.running
        check.setFlags(flags | Qt.ItemFlag.ItemIsEnabled if usable else flags)
        check.setCheckState(Qt.CheckState.Checked if self._writes(variant) else Qt.CheckState.Unchecked)
        check.setData(Qt.ItemDataRole.UserRole, variant.name)
        place = self.session.exports.get(variant.name)
        written = _binary_size(place) if place else None
        audit = self.session.audits.get(variant.name)
        stale = variant.name == PLAN and is_stale_export(self.session)
        checked = QTableWidgetItem("–")
        if audit is not None:
            unplanned = len(self.session.model.matrices) - audit["checked"] if self.session.model else 0
            verdict = tr(", from an earlier plan") if stale else tr(" as planned")
            verdict += (
                tr(", {unplanned:,} not planned and FP16").format(unplanned=unplanned)
                if unplanned > 0
                else ""
            )
            asked = audit["proof"].get("devices", [])
            answers = "".join(f" · {'✓' if d['status'] == 'ok' else '✗'} {d['device']}" for d in asked)
            checked.setText(
                tr("✓ {checked:,} weights{verdict}{answers}").format(
                    checked=audit["checked"], verdict=verdict, answers=answers
                )
            )
            doubtful = stale or unplanned > 0 or any(device["status"] != "ok" for device in asked)
            colours = theme.colours()
            checked.setForeground(QBrush(QColor(colours.warning if doubtful else colours.good)))
        texts = (
            variant.words,
            quantities.size(variant.bytes) if variant.bytes else "–",
            quantities.size(written) if written else tr("not yet"),
        )
        cells = [check, *(QTableWidgetItem(text) for text in texts), checked]
        for cell in cells:
            cell.setToolTip(plain_tip(cell.text()))
        if audit is not None:
            lines = [f"{checked.text()}: {_formats(audit)}", *_answers(audit["proof"])]
            checked.setToolTip(plain_tip("\n".join(lines)))
        return cells

    def _writes(self, variant: ExportChoice) -> bool:
        return variant.bytes is not None and self._chosen.get(variant.name, False)

    def _toggled(self, item: QTableWidgetItem) -> None:
        if item.column() == 0:
            self.choose(item.data(Qt.ItemDataRole.UserRole), item.checkState() == Qt.CheckState.Checked)

    def _missing(self) -> str:
        if self.session.model is None:
            return MISSING
        return (
            "" if any(self._writes(v) for v in self.variants()) else tr("Choose at least one model to write")
        )

    def _export(self) -> None:
        session = self.session
        assert session.model is not None
        jobs = []
        try:
            check_writable(self.folder)
            for variant in self.variants():
                if not self._writes(variant):
                    continue
                job = ExportJob(
                    session.model.reference,
                    self.folder / variant.name,
                    npu=self.npu.isChecked(),
                    paged=self.paged.isChecked(),
                    activation_group=LARGEST if self.coarse.isChecked() else 0,
                )
                if variant.name == PLAN:
                    assert session.plan is not None
                    save_plan(session.workspace.plan, session.plan)
                    job = replace(job, plan=session.workspace.plan)
                else:
                    job = replace(job, format=variant.name)
                jobs.append(job)
        except InputError as error:
            session.say_error(error)
            return
        session.export(jobs)

    def _upload(self) -> None:
        dialog = UploadDialog(self, self.session, self.session.exports)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, tr("Write the models into"), str(self.folder))
        if folder:
            self._folder = Path(folder)
            self._show()

    def _open_folder(self) -> None:
        open_folder(self.session, self.folder, make=True)


def weight_bytes(model: Model, assignments: Mapping[str, str]) -> int:
    """Bytes of the exported weights: those a format applies to, and the rest in FP16."""
    return model.kept_bytes + sum(
        stored_bytes(w["shape"], parse_format(assignments.get(w["name"], "fp16"))) for w in model.matrices
    )


def _binary_size(folder: Path) -> int | None:
    path = folder / "openvino_model.bin"
    return path.stat().st_size if path.is_file() else None


# What an export compared with the model in torch, by its name in the card.
_PROOFS = {
    "fp16_against_torch": tr("Before compression, in f32 on the CPU"),
    "cpu_f32_against_torch": tr("As exported, in f32 on the CPU"),
}


def _answers(proof: Mapping[str, Any]) -> list[str]:
    """How far the exported graph's answers are off those of the model, on the CPU and on each device."""
    on_cpu = [
        tr("{what}: its logits are {off:.0e} of their spread from torch's.").format(what=what, off=off)
        for key, what in _PROOFS.items()
        if (off := proof.get(key)) is not None
    ]
    return [*on_cpu, *map(answer_words, proof.get("devices", []))]


def _formats(audit: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {parse_format(name).label}" for name, count in audit["formats"].items())
