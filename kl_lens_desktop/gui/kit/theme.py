"""The look in one place: the colours of light and dark, the palette, the style sheet."""

from dataclasses import asdict, dataclass
from string import Template

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QFont, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication

from kl_lens_desktop import resources
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.quant.formats import parse_format

SPACE = (4, 8, 12, 16, 24)
CHOICES = {"system": tr("As the system"), "light": tr("Light"), "dark": tr("Dark")}
FORMAT_COLOURS = {"fp16": "#4477AA", "int8": "#66CCEE", "int4": "#CCBB44"}
OTHER_FORMAT = "#AA3377"


@dataclass(frozen=True, slots=True)
class Colours:
    """The tokens of one scheme; text on surface has a contrast of 4.5 : 1 or more, marks 3 : 1."""

    name: str
    background: str
    surface: str
    sunken: str
    line: str
    edge: str
    text: str
    secondary: str
    accent: str
    accent_hover: str
    on_accent: str
    tint: str
    hover: str
    danger: str
    danger_tint: str
    warning: str
    warning_tint: str
    good: str
    good_tint: str


LIGHT = Colours(
    "light",
    "#FAFAF9",
    "#FFFFFF",
    "#F2F2F0",
    "#E3E3E0",
    "#8E8E88",
    "#1C1C1A",
    "#5F5F5A",
    "#1F6FEB",
    "#1A5FCC",
    "#FFFFFF",
    "#E4EEFD",
    "#EFEFEC",
    "#B3261E",
    "#FBE9E7",
    "#7A5200",
    "#FCF3DC",
    "#1B6E35",
    "#E5F4E9",
)
DARK = Colours(
    "dark",
    "#161615",
    "#1F1F1D",
    "#191918",
    "#34342F",
    "#75756E",
    "#F1F1EE",
    "#A6A69E",
    "#6CA8FF",
    "#8ABAFF",
    "#0D1626",
    "#21314A",
    "#2A2A27",
    "#FF8A80",
    "#3B2220",
    "#E8BC5A",
    "#352C18",
    "#77D192",
    "#1D3325",
)


def colours() -> Colours:
    """The colours in force, told by the application's palette; so no widget needs to be handed a theme."""
    return DARK if QGuiApplication.palette().color(QPalette.ColorRole.Window).lightness() < 128 else LIGHT


def apply(app: QApplication, choice: str) -> None:
    """Dress the application in ``system``, ``light`` or ``dark``; widgets hear of it by a palette change."""
    hints = app.styleHints()
    wanted = {"light": Qt.ColorScheme.Light, "dark": Qt.ColorScheme.Dark}.get(choice, Qt.ColorScheme.Unknown)
    if hints.colorScheme() != wanted:
        hints.setColorScheme(wanted)  # title bars and native dialogs follow, where the platform can
    dark = choice == "dark" or (choice != "light" and hints.colorScheme() == Qt.ColorScheme.Dark)
    scheme = DARK if dark else LIGHT
    if app.property("scheme") == scheme.name:
        return
    app.setProperty("scheme", scheme.name)
    app.setPalette(_palette(scheme))
    app.setStyleSheet(_style_sheet(scheme))


def text_font(points: float = 10, *, semibold: bool = False) -> QFont:
    """The system's font with tabular figures, so that numbers in a column line up."""
    font = QFont(QApplication.font())
    font.setPointSizeF(points)
    if semibold:
        font.setWeight(QFont.Weight.DemiBold)
    font.setFeature(QFont.Tag("tnum"), 1)
    return font


def format_colour(name: str) -> QColor:
    """The colour of a format; always shown beside its name, never alone."""
    return QColor(FORMAT_COLOURS.get(parse_format(name).name.split("_")[0], OTHER_FORMAT))


def mixed(first: str, second: str, share: float) -> QColor:
    """`first` with `share` of `second` in it."""
    a, b = QColor(first), QColor(second)
    return QColor.fromRgbF(*(x + (y - x) * share for x, y in zip(_rgb(a), _rgb(b), strict=True)))


def _rgb(colour: QColor) -> tuple[float, float, float]:
    return colour.redF(), colour.greenF(), colour.blueF()


def _palette(scheme: Colours) -> QPalette:
    role = QPalette.ColorRole
    palette = QPalette()
    for name, colour in (
        (role.Window, scheme.background),
        (role.WindowText, scheme.text),
        (role.Base, scheme.surface),
        (role.AlternateBase, scheme.sunken),
        (role.Text, scheme.text),
        (role.Button, scheme.surface),
        (role.ButtonText, scheme.text),
        (role.Highlight, scheme.accent),
        (role.HighlightedText, scheme.on_accent),
        (role.ToolTipBase, scheme.surface),
        (role.ToolTipText, scheme.text),
        (role.Link, scheme.accent),
        (role.PlaceholderText, scheme.secondary),
        (role.Mid, scheme.line),
        (role.Midlight, scheme.line),
        (role.Light, scheme.surface),
        (role.Dark, scheme.edge),
        (role.Shadow, scheme.line),
        (role.BrightText, scheme.danger),
        (role.Accent, scheme.accent),
    ):
        palette.setColor(name, QColor(colour))
    faded = mixed(scheme.secondary, scheme.surface, 0.35)
    for name in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, name, faded)
    return palette


def _style_sheet(scheme: Colours) -> str:
    values = {field: str(value) for field, value in asdict(scheme).items()}
    values["faded"] = mixed(scheme.secondary, scheme.surface, 0.35).name()
    values["icons"] = resources.path("icons").as_posix()
    return Template(_SHEET).substitute(values)


# Borders grow to two pixels with the focus; the padding shrinks by as much, so nothing moves.
_SHEET = """
QToolTip { background: $surface; color: $text; border: 1px solid $edge; padding: 4px 6px; }
QAbstractScrollArea { background: transparent; border: none; }
QScrollArea > QWidget, QScrollArea > QWidget > QWidget { background: transparent; }
QLabel { background: transparent; }
QLabel[role="page-title"] { font-size: 20pt; font-weight: 600; }
QLabel[role="title"] { font-size: 13pt; font-weight: 600; }
QLabel[role="heading"] { font-weight: 600; }
QLabel[role="secondary"] { color: $secondary; }
QLabel[role="large"] { font-size: 20pt; font-weight: 600; }
QLabel[role="number"] { font-size: 13pt; font-weight: 600; }
QLabel[role="good"] { color: $good; font-weight: 600; }
QLabel[role="bad"] { color: $danger; font-weight: 600; }
QFrame[role="card"] { background: $surface; border: 1px solid $line; border-radius: 6px; }
QFrame[role="rule"] { background: $line; border: none; }
QWidget#header { background: $surface; border-bottom: 1px solid $line; }
QWidget#rail { background: $surface; border-right: 1px solid $line; }
QWidget#jobbar { background: $surface; border-top: 1px solid $line; }

QPushButton { background: $surface; color: $text; border: 1px solid $edge; border-radius: 6px;
  padding: 5px 14px;
  min-height: 18px; }
QPushButton:hover { background: $hover; }
QPushButton:pressed { background: $line; }
QPushButton:focus { border: 2px solid $accent; padding: 4px 13px; }
QPushButton:disabled { color: $faded; border-color: $line; background: $background; }
QPushButton[role="primary"] { background: $accent; color: $on_accent; border: 1px solid $accent;
  font-weight: 600; }
QPushButton[role="primary"]:hover { background: $accent_hover; border-color: $accent_hover; }
QPushButton[role="primary"]:focus { border: 2px solid $text; }
QPushButton[role="primary"]:disabled { background: $line; color: $secondary; border-color: $line; }
QPushButton[role="quiet"] { background: transparent; border: 1px solid transparent; }
QPushButton[role="quiet"]:hover { background: $hover; }
QPushButton[role="quiet"]:focus { border: 2px solid $accent; }
QPushButton[role="start"] { padding: 3px; border: 1px solid $line; min-height: 72px; }
QPushButton[role="start"]:hover { border-color: $accent; background: $tint; }
QPushButton[role="start"]:focus { border: 2px solid $accent; padding: 2px; }
QPushButton[role="compress"] { background: $accent; color: $on_accent; border: 1px solid $accent;
  font-weight: 600;
  font-size: 11pt; padding: 9px 12px; }
QPushButton[role="compress"]:hover { background: $accent_hover; border-color: $accent_hover; }
QPushButton[role="compress"]:focus { border: 2px solid $text; padding: 8px 11px; }
QPushButton[role="compress"]:disabled { background: $line; color: $secondary; border-color: $line; }
QPushButton[role="rail"] { background: transparent; border: 1px solid transparent; border-radius: 6px;
  text-align: left;
  padding: 7px 9px; }
QPushButton[role="rail"]:hover { background: $hover; }
QPushButton[role="rail"]:checked { background: $tint; font-weight: 600; }
QPushButton[role="rail"]:focus { border: 2px solid $accent; padding: 6px 8px; }
QPushButton::menu-indicator { image: url("$icons/chevron-down-$name.svg"); width: 12px; height: 12px;
  subcontrol-position: right center; right: 8px; }
QPushButton[menu="true"] { padding: 5px 28px 5px 12px; }
QPushButton[menu="true"]:focus { padding: 4px 27px 4px 11px; }

QToolButton { background: transparent; border: 1px solid transparent; border-radius: 6px; padding: 4px; }
QToolButton:hover { background: $hover; }
QToolButton:focus { border: 2px solid $accent; padding: 3px; }
QToolButton:checked { background: $tint; }

QLineEdit, QPlainTextEdit, QTextEdit, QSpinBox, QComboBox { background: $surface; color: $text;
  border: 1px solid $edge; border-radius: 6px; padding: 4px 8px; selection-background-color: $accent;
  selection-color: $on_accent; }
QTextBrowser { border: 1px solid $line; padding: 0; }
QTextBrowser:focus { border: 2px solid $accent; padding: 0; }
QLineEdit, QSpinBox, QComboBox { min-height: 20px; }
QLineEdit:focus, QPlainTextEdit:focus, QTextEdit:focus, QSpinBox:focus, QComboBox:focus {
  border: 2px solid $accent; padding: 3px 7px; }
QLineEdit:disabled, QSpinBox:disabled, QComboBox:disabled, QPlainTextEdit:disabled { color: $faded;
  background: $background; border-color: $line; }
QLineEdit:read-only { background: $background; }
QComboBox { padding: 4px 24px 4px 8px; }
QComboBox:focus { padding: 3px 23px 3px 7px; }
QComboBox::drop-down { border: none; width: 24px; }
QComboBox::down-arrow { image: url("$icons/chevron-down-$name.svg"); width: 12px; height: 12px; }
QComboBox QAbstractItemView { background: $surface; color: $text; border: 1px solid $edge; outline: none;
  selection-background-color: $tint; selection-color: $text; padding: 2px; }
QSpinBox { padding: 4px 22px 4px 2px; }
QSpinBox:focus { padding: 3px 21px 3px 1px; }
QSpinBox > QLineEdit { border: none; background: transparent; padding: 0; min-height: 0; }
QSpinBox::up-button, QSpinBox::down-button { subcontrol-origin: border; width: 20px; border: none;
  background: none; }
QSpinBox::up-button { subcontrol-position: top right; }
QSpinBox::down-button { subcontrol-position: bottom right; }
QSpinBox::up-arrow { image: url("$icons/chevron-up-$name.svg"); width: 9px; height: 9px; }
QSpinBox::down-arrow { image: url("$icons/chevron-down-$name.svg"); width: 9px; height: 9px; }
QCheckBox, QRadioButton { spacing: 8px; padding: 3px; border: 1px solid transparent; border-radius: 4px; }
QCheckBox:focus, QRadioButton:focus { border: 2px solid $accent; padding: 2px; }
QCheckBox:disabled { color: $faded; }
QCheckBox::indicator, QTableView::indicator { width: 14px; height: 14px; border: 1px solid $edge;
  border-radius: 3px;
  background: $surface; }
QCheckBox::indicator:checked, QTableView::indicator:checked { background: $accent; border-color: $accent;
  image: url("$icons/check-$name.svg"); }
QCheckBox::indicator:disabled, QTableView::indicator:disabled { border-color: $line;
  background: $background; }
QCheckBox::indicator:checked:disabled, QTableView::indicator:checked:disabled { background: $line;
  image: url("$icons/check-$name.svg"); }

QMenu { background: $surface; color: $text; border: 1px solid $edge; padding: 4px; }
QMenu::item { padding: 6px 24px 6px 28px; border-radius: 4px; }
QMenu::item:selected { background: $tint; }
QMenu::item:disabled { color: $faded; }
QMenu::indicator { width: 14px; height: 14px; left: 8px; border: 1px solid $edge; border-radius: 3px; }
QMenu::indicator:checked { background: $accent; border-color: $accent; image: url("$icons/check-$name.svg"); }
QMenu::separator { height: 1px; background: $line; margin: 4px 6px; }

QTableView, QListView, QTreeView { background: $surface; alternate-background-color: $sunken;
  border: 1px solid $line;
  border-radius: 6px; gridline-color: $line; selection-background-color: $tint; selection-color: $text;
  outline: none; }
QTableView:focus, QListView:focus { border: 1px solid $accent; }
QTableView::item { padding: 2px 6px; }
QTableView::item:selected { background: $tint; color: $text; }
QTableView::item:focus { border: 1px solid $accent; }
QListView::item { padding: 6px 8px; border-radius: 4px; }
QListView::item:selected { background: $tint; color: $text; }
QListView::item:hover { background: $hover; }
QFrame[role="card"] QTableView, QFrame[role="card"] QListView,
  QFrame[role="card"] QPlainTextEdit[role="plain"] {
  border: none; }
QHeaderView { background: $surface; border: none; }
QHeaderView::section { background: $surface; color: $secondary; border: none; border-bottom: 1px solid $line;
  padding: 6px 8px; }
QHeaderView::section:hover { color: $text; }
QHeaderView::up-arrow { image: url("$icons/chevron-up-$name.svg"); width: 10px; height: 10px; }
QHeaderView::down-arrow { image: url("$icons/chevron-down-$name.svg"); width: 10px; height: 10px; }
QTableCornerButton::section { background: $surface; border: none; }

QScrollBar:vertical { background: transparent; width: 12px; margin: 0; }
QScrollBar:horizontal { background: transparent; height: 12px; margin: 0; }
QScrollBar::handle { background: $edge; border-radius: 4px; margin: 2px; }
QScrollBar::handle:vertical { min-height: 28px; }
QScrollBar::handle:horizontal { min-width: 28px; }
QScrollBar::handle:hover { background: $secondary; }
QAbstractScrollArea::corner { background: transparent; border: none; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: none; }

QSlider::groove:horizontal { height: 4px; border-radius: 2px; background: $line; }
QSlider::sub-page:horizontal { height: 4px; border-radius: 2px; background: $accent; }
QSlider::handle:horizontal { width: 16px; height: 16px; margin: -7px 0; border-radius: 9px;
  background: $surface;
  border: 2px solid $accent; }
QSlider::handle:horizontal:hover, QSlider::handle:horizontal:focus { background: $accent; }
QSlider::sub-page:horizontal:disabled { background: $line; }
QSlider::handle:horizontal:disabled { border-color: $line; }
QProgressBar { background: $line; border: none; border-radius: 4px; max-height: 8px; min-height: 8px; }
QProgressBar#timeline { background: transparent; max-height: 34px; min-height: 34px; }
QProgressBar::chunk { background: $accent; border-radius: 4px; }

QTabWidget::pane { border: none; }
QTabBar { background: transparent; }
QTabBar::tab { background: transparent; color: $secondary; padding: 6px 2px; margin-right: 18px;
  border: none; border-bottom: 2px solid transparent; }
QTabBar::tab:selected { color: $text; border-bottom: 2px solid $accent; font-weight: 600; }
QTabBar::tab:hover { color: $text; }
QTabBar::tab:focus { color: $accent; }
QSplitter::handle { background: transparent; }
QSplitter::handle:hover { background: $line; }

QFrame#banner { border-radius: 6px; border: 1px solid $line; background: $surface; }
QFrame#banner[level="error"] { border-color: $danger; background: $danger_tint; }
QFrame#banner[level="warning"] { border-color: $warning; background: $warning_tint; }
QFrame#banner[level="info"] { border-color: $good; background: $good_tint; }
"""
