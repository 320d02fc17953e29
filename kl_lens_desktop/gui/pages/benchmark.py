"""Benchmark: variants against devices, speed against quality, and one prompt through two variants."""

import math
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QTextCursor
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QPlainTextEdit,
    QStackedWidget,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.gui import quantities, theme
from kl_lens_desktop.gui.bench_table import FIGURES, BenchTable, GroupHeader, number, variant_title
from kl_lens_desktop.gui.charts import Chart
from kl_lens_desktop.gui.controls import (
    Elided,
    Empty,
    JobButton,
    NumberDelegate,
    Page,
    button,
    card,
    clear,
    column,
    combo,
    hint,
    label,
    row,
    set_up_table,
    spin,
)
from kl_lens_desktop.gui.job import Step
from kl_lens_desktop.gui.session import EFFORTS, MISSING, Session
from kl_lens_desktop.jobs.events import Generated

if TYPE_CHECKING:
    from kl_lens_desktop.gui.window import Window

NOTHING = "There is nothing to measure yet; export a model first"
ORDER = ("fp16", "int8_sym", "int4_sym_g64", "plan")
WIDTHS = (98, 112, 92, 150, 106)
PROBLEM_WIDTH = 300


class BenchmarkPage(Page):
    """The table of figures, the chart, and the trial."""

    def __init__(self, session: Session, window: "Window") -> None:
        super().__init__(session, "How fast, how good")
        self._boxes: dict[str, QCheckBox] = {}
        self.stack = QStackedWidget()
        self._empty_button = button("Export models", lambda: window.show_page("Export"), "primary")
        self.stack.addWidget(
            Empty(
                "benchmark",
                "Nothing to measure yet",
                "Exported models are timed and checked here, side by side on each device, with error bars.",
                self._empty_button,
            )
        )
        self.run = JobButton(
            "Benchmark",
            session,
            self._missing,
            self._start,
            "Measure speed, quality and memory of every exported model (F5)",
            "primary",
        )
        self.look = JobButton(
            "Find devices",
            session,
            lambda: "",
            self._find,
            "Ask OpenVINO which devices this computer has, and try each",
        )
        self.stack.addWidget(self._make_body())
        self.body.addWidget(self.stack, 1)
        self.sentence = label("", "secondary", wrap=True)
        self.foot.addWidget(button("← Export", lambda: window.show_page("Export"), "quiet"))
        self.foot.addWidget(self.sentence, 1)
        self.foot.addWidget(self.effort)
        self.foot.addWidget(self.run)
        session.model_changed.connect(self._show)
        session.exports_changed.connect(self._show)
        session.bench_changed.connect(self._show)
        session.devices_changed.connect(self._show_devices)
        self._show_devices()
        self._show()

    def start(self) -> None:
        self.run.click()

    def opened(self) -> None:
        """Look for devices the first time, if nothing else runs."""
        if not self.session.devices and not self.session.job.running and self.session.exports:
            self._find()

    def _make_body(self) -> QWidget:
        self._devices = QHBoxLayout()
        self._devices.setSpacing(12)
        self.effort = combo("Effort", [(words, words) for words in EFFORTS])
        self.effort.currentTextChanged.connect(self._choose_effort)
        self.effort.setToolTip("A quick look times fewer generations on less text; its error bars are wider")
        device_row = row(label("Devices", "secondary"), self._devices, None, self.look)
        self.table = BenchTable(self)
        self.view = QTableView()
        self.view.setModel(self.table)
        set_up_table(self.view, "Figures by variant and device", stretch=-1)
        header = GroupHeader(self.view)
        self.view.setHorizontalHeader(header)
        self.view.setSelectionMode(QTableView.SelectionMode.SingleSelection)
        self.numbers = NumberDelegate(self.view)
        table_card = card(column(device_row, self.view))
        self.chart = SpeedChart()
        chart_card = card(
            column(
                row(
                    label("Speed against quality", "heading"),
                    None,
                    hint(
                        "A bubble is a variant on a device, its area the peak memory. Down and right is good."
                    ),
                ),
                self.chart,
            )
        )
        left = self.splitter("bench-left", Qt.Orientation.Vertical, table_card, chart_card, sizes=(290, 310))
        self.trial = Trial(self.session)
        return self.splitter("bench", Qt.Orientation.Horizontal, left, self.trial, sizes=(750, 286))

    def _show(self) -> None:
        session = self.session
        self.stack.setCurrentIndex(1 if session.exports or session.bench else 0)
        self._empty_button.setText("Export models" if session.model else "Choose a model")
        measured = [row_["variant"] for row_ in session.bench]
        names = list(dict.fromkeys([*session.exports, *measured]))
        names.sort(key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
        devices = list(dict.fromkeys(row_["device"] for row_ in session.bench)) or ["CPU"]
        self.table.show_rows(names, devices, session.bench)
        self._fit_columns()
        self.chart.show_rows(session.bench)
        self.trial.show_variants(
            {name: str(path) for name, path in session.exports.items()}, self._available()
        )
        self.sentence.setText(_summary(session.bench))
        self.run.refresh()

    def _fit_columns(self) -> None:
        self.view.clearSpans()
        self.view.setColumnWidth(0, 92)
        self.view.setColumnWidth(1, 74)
        for place in range(1, self.table.columnCount()):
            self.view.setItemDelegateForColumn(place, self.numbers)
            if place >= 2:
                group, figure = divmod(place - 2, len(FIGURES))
                absent = self.table.is_absent(self.table.devices[group])
                self.view.setColumnHidden(place, absent and figure > 0)  # its one column says why
                self.view.setColumnWidth(place, PROBLEM_WIDTH if absent else WIDTHS[figure])
        for line, variant in enumerate(self.table.variants):
            for group, device in enumerate(self.table.devices):
                if self.table.problem(variant, device)[0] and not self.table.is_absent(device):
                    self.view.setSpan(line, 2 + group * len(FIGURES), 1, len(FIGURES))

    def _show_devices(self) -> None:
        clear(self._devices)
        self._boxes = {}
        for device in self.session.devices:
            box = QCheckBox(device["name"])
            box.setChecked(device["available"])
            box.setEnabled(device["available"])
            words = device["full_name"] if device["available"] else f"not here: {device['reason']}"
            box.setToolTip(words)
            box.setAccessibleDescription(words)
            box.toggled.connect(lambda _: self.run.refresh())
            self._boxes[device["name"]] = box
            self._devices.addWidget(box)
        if not self.session.devices:
            self._devices.addWidget(label("not looked for yet", "secondary"))
        self.trial.show_variants({n: str(p) for n, p in self.session.exports.items()}, self._available())

    def _available(self) -> list[str]:
        return [device["name"] for device in self.session.devices if device["available"]] or ["CPU"]

    def _missing(self) -> str:
        if self.session.model is None:
            return MISSING
        if not self.session.exports:
            return NOTHING
        return (
            "Choose at least one device"
            if self._boxes and not any(b.isChecked() for b in self._boxes.values())
            else ""
        )

    def _choose_effort(self, words: str) -> None:
        self.session.effort = words

    def _find(self) -> None:
        self.session.job.start(Step("devices", {}))

    def _start(self) -> None:
        session = self.session
        chosen = [name for name, box in self._boxes.items() if box.isChecked()]
        absent = [name for name, box in self._boxes.items() if not box.isEnabled()]
        names = sorted(session.exports, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
        params = {
            "folders": [str(session.exports[name]) for name in names],
            # the absent ones too: their rows say why they are not here
            "devices": [*chosen, *absent] or None,
            "text": None,
            "out": str(session.workspace.bench),
            **EFFORTS[self.session.effort],
        }
        session.bench = []
        session.bench_changed.emit()
        session.job.start(Step("bench", params))


class SpeedChart(Chart):
    """Tokens per second against perplexity; the area of a bubble is memory."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        super().__init__("Speed against quality", "tokens per second", "perplexity")

    def show_rows(self, rows: list[dict[str, Any]]) -> None:
        self._rows = [
            row_
            for row_ in rows
            if row_["status"] == "ok"
            and number(row_, "tokens_per_s") is not None
            and number(row_, "perplexity") is not None
        ]
        self.redraw()

    def redraw(self) -> None:
        self.clear()
        if not self._rows:
            return
        colours = theme.colours()
        largest = max(number(row_, "peak_rss_mb") or 1.0 for row_ in self._rows)
        several = len({row_["device"] for row_ in self._rows}) > 1
        for row_ in self._rows:
            speed, quality = number(row_, "tokens_per_s") or 0.0, number(row_, "perplexity") or 0.0
            size = 12 + 26 * math.sqrt((number(row_, "peak_rss_mb") or 1.0) / largest)
            fill = _variant_colour(row_["variant"])
            fill.setAlphaF(0.75)
            self.mark(speed, quality, size=size, fill=fill, edge=colours.text, width=1)
            name = variant_title(row_["variant"]) + (f" · {row_['device']}" if several else "")
            self.label_at(speed, quality, name, anchor=(0.5, 1.9))
        xs = [number(row_, "tokens_per_s") or 0.0 for row_ in self._rows]
        ys = [number(row_, "perplexity") or 0.0 for row_ in self._rows]
        x_pad, y_pad = (
            (max(xs) - min(xs)) * 0.18 or max(xs) * 0.1,
            (max(ys) - min(ys)) * 0.4 or max(ys) * 0.02,
        )
        self.setRange(
            xRange=(min(xs) - x_pad, max(xs) + x_pad),
            yRange=(min(ys) - y_pad, max(ys) + y_pad * 1.8),
            padding=0,
        )


class Trial(QWidget):
    """One prompt, two variants, the text as it comes; one after the other, since a job at a time may run."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._folders: dict[str, str] = {}
        self.prompt = QPlainTextEdit("The captain looked at the sea and")
        self.prompt.setAccessibleName("Prompt")
        self.prompt.setFixedHeight(64)
        self.prompt.setTabChangesFocus(True)
        self.tokens = spin("New tokens at most", 8, 1024, 64)
        self.device = QComboBox()
        self.device.setAccessibleName("Device to try on")
        self.sides = (_Side("First variant"), _Side("Second variant"))
        self.go = JobButton(
            "Generate",
            session,
            self._missing,
            self._start,
            "Continue the prompt with both variants, one after the other",
        )
        head = row(label("Try it", "heading"), None, self.go)
        self.device.setMinimumContentsLength(5)
        options = row(label("Tokens", "secondary"), self.tokens, label("on", "secondary"), self.device, None)
        self.setMinimumWidth(280)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        inside = column(head, self.prompt, options, self.sides[0], self.sides[1])
        inside.setStretch(3, 1)
        inside.setStretch(4, 1)
        layout.addWidget(card(inside))
        session.job.generated.connect(self._take)
        session.job.step_started.connect(self._begin)
        session.job.step_finished.connect(self._finish)

    def show_variants(self, folders: dict[str, str], devices: list[str]) -> None:
        if folders != self._folders:
            self._folders = folders
            names = sorted(folders, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
            for place, side in enumerate(self.sides):
                side.offer(names, names[0 if place == 0 else -1] if names else "")
        if [self.device.itemText(i) for i in range(self.device.count())] != devices:
            self.device.clear()
            self.device.addItems(devices)
        self.go.refresh()

    def _missing(self) -> str:
        if not self._folders:
            return NOTHING
        return "" if self.prompt.toPlainText().strip() else "Write a prompt first"

    def _start(self) -> None:
        steps = []
        for place, side in enumerate(self.sides):
            name = side.variant.currentData()
            side.clear()
            params = {
                "folder": self._folders[name],
                "device": self.device.currentText(),
                "prompt": self.prompt.toPlainText(),
                "max_new_tokens": self.tokens.value(),
                "variant": str(place),
            }
            steps.append(Step("generate", params, variant_title(name)))
        self._session.job.start(*steps)

    def _side_of(self, step: Step) -> "_Side | None":
        return self.sides[int(step.params["variant"])] if step.task == "generate" else None

    def _begin(self, step: Step) -> None:
        if side := self._side_of(step):
            side.figures.set_text("loading …")

    def _take(self, piece: Generated) -> None:
        if piece.variant in ("0", "1"):
            self.sides[int(piece.variant)].append(piece.text)

    def _finish(self, step: Step, result: dict[str, Any]) -> None:
        if side := self._side_of(step):
            speed = result.get("tokens_per_s")
            words = f"{quantities.significant(speed)} tokens/s" if speed else "too short to time"
            first = quantities.significant(result["ttft_ms"])
            side.figures.set_text(f"{words} · {result['tokens']} tokens · first after {first} ms")


class _Side(QWidget):
    """One variant's text and speed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.variant = QComboBox()
        self.variant.setAccessibleName(name)
        self.variant.activated.connect(lambda _: setattr(self, "_picked", True))
        self._picked = False
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName(f"{name}: generated text")
        self.text.setPlaceholderText("Generated text appears here")
        self.text.setTabChangesFocus(True)
        self.text.setMinimumHeight(60)
        self.figures = Elided("", "secondary")
        layout = column(row(self.variant, None), self.text, self.figures, spacing=4)
        layout.setStretch(1, 1)
        self.setLayout(layout)

    def offer(self, names: list[str], chosen: str) -> None:
        kept = self.variant.currentData()
        self.variant.clear()
        for name in names:
            self.variant.addItem(variant_title(name), name)
        self.variant.setCurrentIndex(
            self.variant.findData(kept if self._picked and kept in names else chosen)
        )

    def clear(self) -> None:
        self.text.clear()
        self.figures.set_text("waiting")

    def append(self, piece: str) -> None:
        self.text.moveCursor(QTextCursor.MoveOperation.End)
        self.text.insertPlainText(piece)


def _variant_colour(name: str) -> QColor:
    if name == "plan":
        return QColor(theme.colours().accent)
    try:
        return theme.format_colour(name)
    except InputError:
        return QColor(theme.OTHER_FORMAT)


def _summary(rows: list[dict[str, Any]]) -> str:
    """The plan against FP16 in one sentence, where both were measured on a device."""
    done = {(row_["variant"], row_["device"]): row_ for row_ in rows if row_["status"] == "ok"}
    device = next((d for v, d in done if v == "plan" and ("fp16", d) in done), None)
    if device is None:
        return ""
    plan, full = done["plan", device], done["fp16", device]
    speeds = number(plan, "tokens_per_s"), number(full, "tokens_per_s")
    if not all(speeds):
        return ""
    ratio = (speeds[0] or 0.0) / (speeds[1] or 1.0)
    size = quantities.percent(plan["size_bytes"] / full["size_bytes"])
    return f"On {device} the plan runs at {ratio:.2f}× the speed of FP16 in {size} of its size."
