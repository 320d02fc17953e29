"""Entry point: the window, a worker process, or a command."""

import sys
from multiprocessing import freeze_support


def main() -> int:
    """Dispatch on the arguments; a frozen application starts its workers by calling itself."""
    freeze_support()
    if sys.argv[1:] == ["worker"]:
        from kl_lens_desktop.jobs import from_line
        from kl_lens_desktop.process.worker import serve

        return serve(from_line)
    from kl_lens_desktop.cli.commands import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
