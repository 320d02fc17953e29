"""The button that says which models wait to be compressed, with a menu to change that."""

from functools import partial

from PySide6.QtWidgets import QMenu, QPushButton

from kl_lens_desktop import quantities
from kl_lens_desktop.gui.kit.words import plain_tip
from kl_lens_desktop.gui.state.session import Session
from kl_lens_desktop.gui.state.translation import tr
from kl_lens_desktop.gui.state.workspace import model_title
from kl_lens_desktop.printable import printable


class QueueButton(QPushButton):
    """Hidden while no model waits."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.setAutoDefault(False)
        self.setProperty("menu", "true")
        self._queue, self._next_in_s = session.queue, -1
        self._menu = QMenu(self)
        self._menu.setToolTipsVisible(True)
        self._menu.aboutToShow.connect(self._fill)
        self.setMenu(self._menu)
        self._queue.changed.connect(self._show)
        self._queue.counting.connect(self._count)
        self._show()

    def _count(self, _: str, seconds: int) -> None:
        self._next_in_s = seconds
        self._show()

    def _show(self) -> None:
        waiting = self._queue.waiting
        self.setVisible(bool(waiting))
        count = quantities.plural(len(waiting), "model")
        if self._next_in_s >= 0:
            words = tr("Next in {seconds} s").format(seconds=self._next_in_s)
        elif self._queue.held:
            words = tr("On hold: {count}").format(count=count)
        else:
            words = tr("Next: {count}").format(count=count)
        self.setText(words)
        names = "\n".join(model_title(each.reference) for each in waiting)
        self.setToolTip(plain_tip(tr("Waiting to be compressed:\n{names}").format(names=names)))
        self.setAccessibleName(tr("Models waiting to be compressed: {words}").format(words=words))

    def _fill(self) -> None:
        menu, queue = self._menu, self._queue
        menu.clear()
        for before in menu.findChildren(QMenu):
            before.deleteLater()
        menu.addAction(tr("Compressed next")).setEnabled(False)
        for place, each in enumerate(queue.waiting):
            one = menu.addMenu(_menu_words(model_title(each.reference)))
            if place:
                one.addAction(tr("Move to the front"), partial(queue.move_first, each.reference))
            one.addAction(tr("Remove"), partial(queue.remove, each.reference))
        menu.addSeparator()
        if queue.held or self._next_in_s >= 0:
            menu.addAction(tr("Start now"), queue.go_on)
        if not queue.held:
            menu.addAction(tr("Hold"), queue.hold)
        menu.addAction(tr("Remove all"), partial(queue.remove, *(each.reference for each in queue.waiting)))


def _menu_words(name: str) -> str:
    return printable(name).replace("&", "&&")
