"""Make an application for computers without Python, try it, and make what installs it.

    .venv/bin/python -m pip install -r installer/requirements-build.txt      (Windows: .venv\\Scripts\\python)
    .venv/bin/python installer/build.py

Writes the folder ``dist/kl-lens``, and beside it a package for Debian and Ubuntu, or on Windows, where Inno
Setup is installed, a set-up program.
"""

import argparse
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD, DIST = ROOT / "build", ROOT / "dist"
FOLDER = DIST / "kl-lens"
ICON_SIZES = (16, 32, 48, 128, 256)
# Windows ends a path at 260 characters, and the folder lies in C:\Users\NAME\AppData\Local\KLLens.
LONGEST_PATH = 259 - len(r"C:\Users\a-name-of-24-characters-\AppData\Local\KLLens\_")


def main() -> int:
    """Do the steps that were asked for; without any, all of them."""
    parser = argparse.ArgumentParser(description="Make the application, try it, and make what installs it.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all)")
    chosen = parser.parse_args().steps or list(STEPS)
    if unknown := set(chosen) - STEPS.keys():
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    for name in chosen:
        print(f"{name} ...", flush=True)
        STEPS[name]()
    return 0


def draw_icons() -> None:
    """``build/icons``: the icon as pictures of several sizes, and all of them as one file for Windows."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6.QtGui import QImage, QPainter
    from PySide6.QtSvg import QSvgRenderer

    folder = BUILD / "icons"
    folder.mkdir(parents=True, exist_ok=True)
    renderer = QSvgRenderer(str(ROOT / "resources" / "icons" / "app.svg"))
    pictures = []
    for size in ICON_SIZES:
        image = QImage(size, size, QImage.Format.Format_ARGB32)
        image.fill(0)
        painter = QPainter(image)
        renderer.render(painter)
        painter.end()
        path = folder / f"{size}.png"
        if not image.save(str(path)):
            raise SystemExit(f"Cannot write {path}.")
        pictures.append(path.read_bytes())
    (folder / "kl-lens.ico").write_bytes(_ico(pictures))


def _ico(pictures: list[bytes]) -> bytes:
    """An icon file: a header, a line for each picture, and the pictures as PNG; 256 is written as 0."""
    place = 6 + 16 * len(pictures)
    head = struct.pack("<HHH", 0, 1, len(pictures))
    for size, picture in zip(ICON_SIZES, pictures, strict=True):
        head += struct.pack("<BBBBHHII", size % 256, size % 256, 0, 0, 1, 32, len(picture), place)
        place += len(picture)
    return head + b"".join(pictures)


def freeze() -> None:
    """``dist/kl-lens`` by PyInstaller; paths too long for Windows are refused on every system."""
    _call(sys.executable, "-m", "PyInstaller", "--noconfirm", "--distpath", DIST, "--workpath", BUILD, SPEC)
    long = [path for path in _relative_paths() if len(path) > LONGEST_PATH]
    if long:
        raise SystemExit(f"{len(long)} paths are too long for Windows, for example {max(long, key=len)}.")


SPEC = ROOT / "installer" / "kl-lens.spec"


def _relative_paths() -> list[str]:
    return [str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*")]


def try_it() -> None:
    """The application's own self-test, with nothing of this environment's variables."""
    kept = ("SYSTEMROOT", "TEMP", "TMP", "USERPROFILE", "LOCALAPPDATA", "APPDATA", "HOME", "TMPDIR")
    bare = {name: os.environ[name] for name in kept if name in os.environ}
    _call(_program(), "--self-test", env=bare)


def _program() -> Path:
    return FOLDER / ("kl-lens.exe" if sys.platform == "win32" else "kl-lens")


def pack() -> None:
    """What installs the folder on this system."""
    if sys.platform == "win32":
        compiler = shutil.which("iscc") or r"C:\Program Files (x86)\Inno Setup 6\ISCC.exe"
        _call(compiler, ROOT / "installer" / "kl-lens.iss")
    elif sys.platform == "linux":
        sys.path.insert(0, str(ROOT))  # where the program is not installed in this environment
        import deb

        print(deb.make(FOLDER, BUILD, DIST))


def _call(*command: object, env: dict[str, str] | None = None) -> None:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with status {done.returncode}.")


STEPS = {"icons": draw_icons, "freeze": freeze, "try": try_it, "pack": pack}

if __name__ == "__main__":
    sys.exit(main())
