"""Benchmark: variants against devices, live memory, charts, all figures of a variant, a chat."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent, QPoint, Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QMenu,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QTabBar,
    QVBoxLayout,
    QWidget,
    QWidgetAction,
)

from kl_lens_desktop.bench.compare import Comparison
from kl_lens_desktop.bench.jobs import DevicesJob
from kl_lens_desktop.bench.judgement import levelled
from kl_lens_desktop.bench.labels import device_notes
from kl_lens_desktop.bench.outcome import outcome
from kl_lens_desktop.gui.bench.chart import HINT, VIEWS, BenchChart
from kl_lens_desktop.gui.bench.chat_panel import ChatPanel
from kl_lens_desktop.gui.bench.details import FigureSheet
from kl_lens_desktop.gui.bench.difference import BenchDifferenceDialog, read_both
from kl_lens_desktop.gui.bench.figures import Figure, figures, problem, sorted_variants
from kl_lens_desktop.gui.bench.memory_strip import MemoryStrip
from kl_lens_desktop.gui.bench.result_card import ResultCard
from kl_lens_desktop.gui.bench.settings import BenchSettings
from kl_lens_desktop.gui.bench.table import BenchTable, FiguresView
from kl_lens_desktop.gui.kit.controls import (
    Elided,
    Empty,
    Frame,
    JobButton,
    Page,
    button,
    card,
    clear,
    column,
    combo,
    hint,
    label,
    row,
)
from kl_lens_desktop.gui.kit.pictures import Taken
from kl_lens_desktop.gui.kit.saving import ask_where
from kl_lens_desktop.gui.kit.share import choose_and_share
from kl_lens_desktop.gui.kit.words import caption, explain, plain_tip
from kl_lens_desktop.gui.state import bench_history
from kl_lens_desktop.gui.state.job import Step
from kl_lens_desktop.gui.state.session import EFFORTS, MISSING, QUICK, Session
from kl_lens_desktop.gui.state.translation import tr

NOTHING = tr("Export a model first")
NOT_MEASURED = tr("Nothing measured yet")
MEASURING = tr("Measuring now. Variants take turns, so the figures of all appear near the end.")
UNMEASURED = tr(
    "Not measured yet. “Benchmark” times each model on the selected devices and checks its answers."
)
LEGEND = tr("Bold: the best. ≈: not shown to differ from the best. KL leaves out FP16, its reference.")
USUAL_ROWS = 4  # of a whole job: the plan and its three baselines
# The menu of columns, side by side.
COLUMN_GROUPS = (
    (tr("Speed"), tr("By prompt length")),
    (tr("Quality"), tr("Memory")),
    (tr("Loading"), tr("How it ran")),
)


class BenchmarkPage(Page):
    """The table of figures; below it charts, details and a chat."""

    def __init__(self, session: Session, window: Frame) -> None:
        super().__init__(session, tr("How fast, how good"))
        self._boxes: dict[str, QCheckBox] = {}
        self._chosen = ""
        self.comparison: BenchDifferenceDialog | None = None
        self._empty_button = button(tr("Export models"), lambda: window.show_page("Export"), "primary")
        self.run = JobButton(
            tr("Benchmark"),
            session,
            self._missing,
            self._start,
            tr("Measure speed, quality and memory of every exported model (F5)"),
            "primary",
        )
        self.look = JobButton(
            tr("Find devices"),
            session,
            lambda: "",
            self._find,
            tr("Find the devices that OpenVINO can use, and test each one"),
        )
        self.compare = button(tr("Compare with"), lambda: None)
        self.compare.setProperty("menu", "true")
        self._others = QMenu(self.compare)
        self._others.aboutToShow.connect(self._offer_others)
        self.compare.setMenu(self._others)
        self.save = self._make_save()
        self.tools.addWidget(self.compare)
        self.tools.addWidget(self.save)
        self.stack = QStackedWidget()
        self.stack.addWidget(
            Empty(
                "benchmark",
                tr("Nothing to measure yet"),
                tr("Time and check exported models here, side by side on each device, with error bars."),
                self._empty_button,
            )
        )
        self.stack.addWidget(self._make_body())
        self.body.addWidget(self.stack, 1)
        self.sentence = label("", "secondary", wrap=True, select=True)
        self.sentence.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.settings = button(
            tr("Settings…"), self._ask_settings, tip=tr("What is measured, and for how long")
        )
        self.lead_back("Export", window.show_page)
        self.run.explained.connect(self._show_sentence)
        self.foot.addWidget(self.sentence, 1)
        self.foot.addWidget(self.settings)
        self.foot.addWidget(self.effort)
        self.foot.addWidget(self.run)
        session.model_changed.connect(self._show)
        session.model_changed.connect(self.memory.forget)
        session.exports_changed.connect(self._show)
        session.bench_changed.connect(self._show)
        session.devices_changed.connect(self._show_devices)
        session.job.started.connect(lambda _: self._show_tools())
        session.job.ended.connect(lambda _: self._show_tools())
        session.stages_changed.connect(self._choose_again)
        self.tell_stage("Benchmark")
        self._show()

    def _make_save(self) -> QPushButton:
        save = button(tr("Save as"), lambda: None)
        save.setProperty("menu", "true")
        menu = QMenu(save)
        for words, name in (
            (tr("Bench file (JSON)…"), "bench.json"),
            (tr("Table (CSV)…"), "bench.csv"),
            (tr("Page (HTML)…"), "bench.html"),
        ):
            menu.addAction(words).triggered.connect(lambda _, name=name: self._choose_file(name))
        menu.addSeparator()
        share = menu.addAction(tr("Bundle to share…"))
        share.triggered.connect(lambda _: choose_and_share(self.session, self))
        save.setMenu(menu)
        return save

    def start(self) -> None:
        self.run.click()

    def opened(self) -> None:
        """Look for devices the first time, if nothing else runs; read what “Compare with” will offer."""
        if self.session.bench_environment:
            workspace = self.session.workspace
            self.session.background.run(
                lambda: bench_history.earlier(workspace), lambda _: None, self.session.say_error
            )
        if not self.session.devices and not self.session.job.running and self.session.exports:
            self._find()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "run"):
            self._show()  # the words' colours belong to the scheme

    @property
    def columns(self) -> list[Figure]:
        """The figures shown as columns: what the person chose of what there is, or the usual ones."""
        known = figures(self.session.bench)
        chosen = self.session.settings.columns
        shown = [figure for figure in known if (figure.usual if chosen is None else figure.key in chosen)]
        return shown or [figure for figure in known if figure.usual]

    def show_column(self, key: str, shown: bool) -> None:
        """Show or hide a figure's column from now on; what was chosen and these rows lack stays chosen."""
        known = {figure.key for figure in figures(self.session.bench)}
        elsewhere = [each for each in self.session.settings.columns or () if each not in known]
        here = [figure.key for figure in self.columns if figure.key != key]
        self.session.settings.columns = (*elsewhere, *here, *([key] if shown else []))
        self._show()

    def compare_with(self, path: Path) -> None:
        """Show this bench file beside the one at `path`."""
        mine = self.session.workspace.bench
        names = f"{mine.parent.name}/{mine.name}", path.name
        self.session.background.run(
            lambda: read_both(mine, path),
            lambda comparison: self._show_comparison(comparison, names),
            self.session.say_error,
        )

    def save_to(self, path: Path) -> None:
        """Write the bench file as JSON, CSV or HTML, by the ending of `path`."""
        from kl_lens_desktop.bench.page import export_html
        from kl_lens_desktop.bench.report import export_csv, load_bench
        from kl_lens_desktop.files import write_json

        mine = self.session.workspace.bench
        write: Callable[[dict[str, object], Path], None] = {
            ".csv": export_csv,
            ".html": export_html,
        }.get(path.suffix.lower(), lambda bench, where: write_json(where, bench))
        self.session.background.run(
            lambda: write(load_bench(mine), path),
            lambda _: self.session.say("info", tr("Saved the benchmark as {path}.").format(path=path)),
            self.session.say_error,
        )

    # How it is laid out.

    def _make_body(self) -> QWidget:
        self._devices = QGridLayout()
        self._devices.setHorizontalSpacing(8)
        self._devices.setVerticalSpacing(0)
        for across in (1, 3):
            self._devices.setColumnStretch(across, 1)
        self.effort = combo(tr("Effort"), [(words, words) for words in EFFORTS])
        self.effort.currentTextChanged.connect(self.session.choose_effort)
        self.session.wanted_changed.connect(self._show_effort)
        self.effort.setToolTip(
            tr(
                "Thorough: rounds continue until the speeds clearly differ or time is up.\n"
                "Quick look: two rounds of short generations on less text. Faster, with "
                "wider errors."
            )
        )
        self.choose_columns = button(
            tr("Columns"), lambda: None, tip=tr("Choose which figures the table shows")
        )
        self.choose_columns.setProperty("menu", "true")
        self._columns = QMenu(self)
        self._columns.aboutToShow.connect(self._offer_columns)
        self.choose_columns.setMenu(self._columns)
        tools = column(row(self.look, self.choose_columns), None)
        device_row = row(self._devices, tools)
        device_row.setStretch(0, 1)
        self.table = BenchTable(self)
        self.view = FiguresView(self.table)
        header = self.view.horizontalHeader()
        header.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        header.customContextMenuRequested.connect(self._pop_columns)
        self.view.selectionModel().currentChanged.connect(lambda now, _: self._choose(now.row()))
        self.reason = label("", "secondary", wrap=True, select=True)
        self.reason.setMinimumHeight(self.reason.fontMetrics().height())
        self.notes = label("", "secondary", wrap=True, select=True)
        self.notes.setVisible(False)
        above = column(device_row, self.notes, self.view, self.reason)
        above.setStretch(2, 1)
        lower = self._make_lower()
        return self.splitter("bench-rows", Qt.Orientation.Vertical, card(above), lower, sizes=(360, 280))

    def _make_lower(self) -> QWidget:
        """What was found of the models, and what can be done with them, a tab each."""
        self.memory = MemoryStrip(self.session.job)
        self.chat = ChatPanel(self.session)
        self.details = FigureSheet()
        self.tabs = QTabBar()
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setUsesScrollButtons(False)
        self.tabs.setAccessibleName(tr("The result, charts, all figures, or a chat"))
        below = QStackedWidget()
        self.result = ResultCard(self.session, self._open_chat)
        for title, inside in (
            (tr("Result"), column(self.result)),
            (tr("Charts"), self._make_charts()),
            (tr("All figures"), column(self.details)),
            (tr("Chat"), column(self.chat)),
        ):
            self.tabs.addTab(title)
            below.addWidget(card(inside))
        self.tabs.currentChanged.connect(below.setCurrentIndex)
        self._change_view()
        tab_row = row(self.tabs, self.memory, spacing=16)
        tab_row.setStretch(1, 1)
        lower = QWidget()
        lower.setLayout(column(tab_row, below, spacing=4))
        return lower

    def _make_charts(self) -> QVBoxLayout:
        self.chart = BenchChart()
        self.chart.setMinimumHeight(70)
        self.chart_view: QComboBox = combo(tr("Chart"), [(name, name) for name in VIEWS])
        self.upward: QComboBox = combo(tr("Measure"), [])
        self.upward.setMinimumContentsLength(22)
        self.chart_view.currentIndexChanged.connect(self._change_view)
        self.upward.activated.connect(lambda _: self._draw_view())
        taker = Taken(self.session, self.chart, "benchmark", self.chart.rows).button()
        inside = column(row(self.chart_view, self.upward, None, taker, hint(HINT)), self.chart)
        inside.setStretch(1, 1)
        return inside

    # What is shown.

    def _show(self) -> None:
        session = self.session
        self.stack.setCurrentIndex(1 if session.exports or session.bench else 0)
        self._empty_button.setText(tr("Export models") if session.model else tr("Choose a model"))
        rows = session.bench
        names = sorted_variants([*session.exports, *(each["variant"] for each in rows)])
        tried = [each["device"] for each in rows if each["status"] != "unavailable"]
        environment = session.bench_environment or {}
        self.table.show_rows(
            names, list(dict.fromkeys(tried)), rows, self.columns, environment.get("memory_read_gb_s")
        )
        self._keep_rows_in_view(len(names))
        self.chart.show_rows(levelled(rows))
        self.details.show_rows(names, levelled(rows), session.bench_environment)
        self.result.show_result()
        self._show_devices()
        self._choose_again()
        self._show_sentence()
        self._show_tools()

    def _keep_rows_in_view(self, rows: int) -> None:
        """However small the window, the usual variants are seen without scrolling."""
        view = self.view
        heights = (view.rowHeight(place) for place in range(min(rows, USUAL_ROWS)))
        bar = view.horizontalScrollBar().sizeHint().height()
        view.setMinimumHeight(view.horizontalHeader().sizeHint().height() + sum(heights) + bar)

    def _show_sentence(self, *_: object) -> None:
        """What was found or, as long as nothing is, why nothing can be measured."""
        found = outcome(self.session.bench)
        self.sentence.setText(
            tr("On {device}: {sentence}.").format(device=found.device, sentence=found.sentence)
            if found
            else self.run.reason
        )

    def _show_tools(self) -> None:
        running = self.session.job.running
        reason = "" if self.session.bench_environment else NOT_MEASURED
        tip = tr("Compare with an earlier benchmark, or with a bench file from another computer")
        self.compare.setToolTip(plain_tip(reason or tip))
        self.save.setToolTip(plain_tip(reason or tr("Save the figures as a file")))
        self.compare.setEnabled(not reason)
        self.save.setEnabled(not reason)
        self.effort.setEnabled(not running)
        self.settings.setEnabled(not running)
        self.run.refresh()

    def _choose_again(self) -> None:
        names = self.table.variants
        self._choose(names.index(self._chosen) if self._chosen in names else -1)

    def _choose(self, line: int) -> None:
        """Show the variant of a line, and why it has no figures if that is so."""
        names = self.table.variants
        self._chosen = names[line] if 0 <= line < len(names) else ""
        own = (self.table.row(self._chosen, device) for device in self.table.devices)
        failures = [f"{each['device']}: {problem(each)[1]}" for each in own if each and problem(each)[0]]
        running = self.session.running_page == "Benchmark"
        otherwise = LEGEND if self.session.bench else MEASURING if running else UNMEASURED
        self.reason.setText("\n".join(failures) or otherwise)
        self.reason.setProperty("role", "bad" if failures else "secondary")
        self.reason.style().polish(self.reason)

    def _show_devices(self) -> None:
        known = {each["name"]: each for each in (self.session.bench_environment or {}).get("devices", ())}
        known |= {each["name"]: each for each in self.session.devices}
        extra = [each for each in self.session.settings.benchmark.combinations if each not in known]
        before = {name: box.isChecked() for name, box in self._boxes.items() if box.isEnabled()}
        clear(self._devices)
        self._boxes = {}
        for place, device in enumerate(known.values()):
            there = device["available"]
            words = (
                _device_words(device)
                if there
                else tr("not available: {reason}").format(reason=device["reason"])
            )
            self._add_device(place, device["name"], words, there, before)
        for place, name in enumerate(extra, len(known)):
            self._add_device(place, name, tr("as set under “Settings”"), True, before)
        if not self._boxes:
            self._devices.addWidget(label(tr("Devices: not searched yet"), "secondary"), 0, 0)
        notes = {name: device_notes(each) for name, each in known.items()}
        self.notes.setText("\n".join(f"{name}: {' '.join(said)}" for name, said in notes.items() if said))
        self.notes.setVisible(bool(self.notes.text()))
        self.chat.show_variants({n: str(p) for n, p in self.session.exports.items()}, self._available())
        self._choose_devices()

    def _add_device(self, place: int, name: str, words: str, there: bool, before: dict[str, bool]) -> None:
        box = QCheckBox(caption(name))
        box.setChecked(there and before.get(name, True))
        box.setEnabled(there)
        box.setToolTip(plain_tip(words))
        box.setAccessibleDescription(words)
        box.toggled.connect(lambda _: self._choose_devices())
        self._boxes[name] = box
        down, across = divmod(place, 2)
        self._devices.addWidget(box, down, 2 * across)
        self._devices.addWidget(Elided(words, "secondary"), down, 2 * across + 1)

    def _available(self) -> list[str]:
        return [name for name, box in self._boxes.items() if box.isEnabled()] or ["CPU"]

    def _change_view(self) -> None:
        self.upward.clear()
        for scale in VIEWS[self.chart_view.currentData()][1]:
            self.upward.addItem(scale.words[:1].upper() + scale.words[1:], scale)
        self.upward.setVisible(self.upward.count() > 1)
        self._draw_view()

    def _draw_view(self) -> None:
        self.chart.show_view(self.chart_view.currentData(), self.upward.currentData())

    def _offer_columns(self) -> None:
        """The menu of columns: check boxes in groups, which stay open while one chooses."""
        self._columns.clear()
        shown = {figure.key for figure in self.columns}
        known = figures(self.session.bench)
        stacks = row(spacing=24)
        stacks.setContentsMargins(12, 8, 12, 8)
        for groups in COLUMN_GROUPS:
            stack = column(spacing=0)
            for group in groups:
                stack.addWidget(label(group, "heading"))
                for figure in (figure for figure in known if figure.group == group):
                    stack.addWidget(self._column_box(figure, figure.key in shown))
                stack.addSpacing(8)
            stack.addStretch(1)
            stacks.addLayout(stack)
        inside = QWidget()
        inside.setLayout(stacks)
        whole = QWidgetAction(self._columns)
        whole.setDefaultWidget(inside)
        self._columns.addAction(whole)
        self._columns.addSeparator()
        self._columns.addAction(tr("The usual columns")).triggered.connect(lambda _: self._usual_columns())

    def _column_box(self, figure: Figure, shown: bool) -> QCheckBox:
        box = QCheckBox(figure.name)
        box.setChecked(shown)
        explain(box, figure.tip)
        box.toggled.connect(lambda wanted: self.show_column(figure.key, wanted))
        return box

    def _pop_columns(self, at: QPoint) -> None:
        self._columns.popup(self.view.horizontalHeader().mapToGlobal(at))

    def _usual_columns(self) -> None:
        self.session.settings.columns = None
        self._show()

    def _show_comparison(self, comparison: Comparison, names: tuple[str, str]) -> None:
        self.comparison = BenchDifferenceDialog(self.session, comparison, names, self)
        self.comparison.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.comparison.finished.connect(lambda _: setattr(self, "comparison", None))
        self.comparison.open()

    # What is done.

    def _open_chat(self) -> None:
        self.tabs.setCurrentIndex(self.tabs.count() - 1)
        self.chat.prompt.setFocus()

    def _missing(self) -> str:
        if self.session.model is None:
            return MISSING
        if not self.session.exports:
            return NOTHING
        return (
            tr("Choose at least one device")
            if self._boxes and not any(b.isChecked() for b in self._boxes.values())
            else ""
        )

    def _choose_devices(self) -> None:
        here = {name: box.isChecked() for name, box in self._boxes.items() if box.isEnabled()}
        chosen = tuple(name for name, wanted in here.items() if wanted)
        self.session.choose_devices(None if all(here.values()) else chosen)
        self.run.refresh()

    def _show_effort(self) -> None:
        self.effort.setCurrentText(self.session.effort)

    def _ask_settings(self) -> None:
        session = self.session
        dialog = BenchSettings(session.settings.benchmark, quick=session.effort == QUICK, parent=self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.accepted.connect(lambda: self.measure_so(dialog))
        dialog.open()

    def measure_so(self, dialog: BenchSettings) -> None:
        """Measure as a dialog says from now on."""
        self.session.settings.benchmark = dialog.benchmark
        self._show_devices()

    def _find(self) -> None:
        self.session.job.start(Step(DevicesJob()))

    def _start(self) -> None:
        chosen = [name for name, box in self._boxes.items() if box.isChecked()]
        absent = [name for name, box in self._boxes.items() if not box.isEnabled()]
        exports = self.session.exports
        # the absent ones too: their rows say why they are not here
        self.session.benchmark(
            [exports[name] for name in sorted_variants(exports)], [*chosen, *absent] or None
        )

    def _offer_others(self) -> None:
        """The menu of what this benchmark can be compared with."""
        self._others.clear()
        for each in bench_history.earlier(self.session.workspace):
            action = self._others.addAction(caption(each.words))
            action.triggered.connect(partial(self._compare_with_earlier, each.path))
        self._others.addSeparator()
        self._others.addAction(tr("Another file…")).triggered.connect(lambda _: self._choose_other())

    def _compare_with_earlier(self, path: Path, *_: object) -> None:
        self.compare_with(path)

    def _choose_other(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, tr("Compare with another bench file"), "", tr("Bench files (*.json);;All files (*)")
        )
        if path:
            self.compare_with(Path(path))

    def _choose_file(self, name: str) -> None:
        ending = Path(name).suffix
        kinds = {f"*{ending}": ending}
        if path := ask_where(self, tr("Save the benchmark"), name, kinds):
            self.save_to(path)


def _device_words(device: dict[str, Any]) -> str:
    """The maker's name and the driver; nothing where neither says more than the device's own name."""
    name, driver = device["full_name"], device.get("driver")
    return ", ".join([*([name] if name != device["name"] else []), *([f"driver {driver}"] if driver else [])])
