"""Entry point: the window, a worker process, or a command."""

import sys

from kl_lens_desktop.process import signals


def main() -> int:
    """Dispatch on the arguments; a frozen application starts its workers by calling itself."""
    if sys.argv[1:] == ["worker"]:
        signals.ignore()
        from kl_lens_desktop.jobs import from_line
        from kl_lens_desktop.process.worker import serve

        return serve(from_line)
    try:
        signals.stop_when_asked()
        from multiprocessing import freeze_support

        freeze_support()
        from kl_lens_desktop.cli.commands import run

        return run(sys.argv[1:])
    except signals.Stopped as stopped:
        signals.default()
        from kl_lens_desktop.cli.commands import cancelled

        print(cancelled(sys.argv[1:]), file=sys.stderr)
        return stopped.status


if __name__ == "__main__":
    sys.exit(main())
