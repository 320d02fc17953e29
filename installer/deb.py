"""A package for Debian and Ubuntu of the folder that PyInstaller makes: see build.py."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from kl_lens_desktop import __version__
from kl_lens_desktop.qt_libraries import QT_NEEDS, WAYLAND_NEEDS, X11_NEEDS

ROOT = Path(__file__).resolve().parent.parent
CONTROL = """\
Package: kl-lens
Version: {version}
Architecture: {architecture}
Maintainer: KL Lens Desktop developers
Installed-Size: {kilobytes}
Depends: {depends}
Recommends: {recommends}
Section: science
Priority: optional
Description: Make hybrid language models small and fast on Intel laptops
 KL Lens measures how much each weight of a hybrid SSM-Transformer model
 matters, chooses a format for each, exports the model to OpenVINO, and
 measures speed, quality and memory on each device.
"""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def make(folder: Path, build: Path, target: Path) -> Path:
    """Pack an application.

    Parameters
    ----------
    folder : Path
        The application, with its program ``kl-lens``.
    build : Path
        Holds the icons, and takes what is laid out on the way.
    target : Path
        The folder for the package.

    Returns
    -------
    Path
        The package, which installs to ``/opt/kl-lens`` with an entry in the menu and completions for bash.
    """
    root = build / "deb"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(folder, root / "opt" / "kl-lens", symlinks=True, copy_function=_link)
    linux, share = ROOT / "installer" / "linux", root / "usr" / "share"
    _place(linux / "kl-lens.desktop", share / "applications" / "kl-lens.desktop")
    _place(linux / "kl-lens.metainfo.xml", share / "metainfo" / "kl-lens.metainfo.xml")
    _place(ROOT / "LICENSE", share / "doc" / "kl-lens" / "copyright")
    icons = share / "icons" / "hicolor"
    _place(ROOT / "resources" / "icons" / "app.svg", icons / "scalable" / "apps" / "kl-lens.svg")
    for picture in (build / "icons").glob("*.png"):
        size = f"{picture.stem}x{picture.stem}"
        _place(picture, icons / size / "apps" / "kl-lens.png")
    completion = subprocess.run(
        [folder / "kl-lens", "--print-completion", "bash"], stdout=subprocess.PIPE, check=True
    )
    completions = share / "bash-completion" / "completions" / "kl-lens"
    completions.parent.mkdir(parents=True)
    completions.write_bytes(completion.stdout)
    program = root / "usr" / "bin" / "kl-lens"
    program.parent.mkdir()
    program.symlink_to("../../opt/kl-lens/kl-lens")
    _write_control(root)
    architecture = ARCHITECTURES[platform.machine()]
    package = target / f"kl-lens_{__version__}_{architecture}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zzstd", "--build", root, package], check=True)
    shutil.rmtree(root)
    return package


def _write_control(root: Path) -> None:
    """What the package needs: libraries that Qt leaves to the system, and a C library as new as this one."""
    libc = f"libc6 (>= {platform.libc_ver()[1]})"
    needs = sorted({names[0] for names in (QT_NEEDS | X11_NEEDS).values()})
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    text = CONTROL.format(
        version=__version__,
        architecture=ARCHITECTURES[platform.machine()],
        kilobytes=sum(path.stat().st_size for path in files) // 1024,
        depends=", ".join([libc, *needs]),
        recommends=", ".join(sorted({names[0] for names in WAYLAND_NEEDS.values()})),
    )
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(text, encoding="utf-8")


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _link(source: str, target: str) -> None:
    """A second name for the file: a copy would take another 1.4 GB."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
