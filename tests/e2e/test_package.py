"""The wheel and the source archive: built, installed into an empty folder, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from cifar_cli import __version__

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*words: object, **options: object) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel, which is built from the source archive as an installer does."""
    folder = tmp_path_factory.mktemp("package")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    run(sys.executable, *pip, "--target", folder / "site", wheel)
    return folder / "site"


def test_the_wheel_holds_everything_that_is_not_code(installed: Path) -> None:
    for name in ("py.typed", "core/models/timm_names.txt"):
        assert (installed / "cifar_cli" / name).is_file()
    metadata = installed / f"cifar_cli-{__version__}.dist-info"
    assert (metadata / "extra_metadata" / "constraints.txt").read_text() == (ROOT / "constraints.txt").read_text()
    assert not (installed / "tests").exists()


def test_the_installed_package_trains_evaluates_and_knows_what_was_tested(installed: Path, tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    where = run(sys.executable, "-c", "import cifar_cli; print(cifar_cli.__file__)", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(installed)
    cifar = (sys.executable, "-m", "cifar_cli")
    assert run(*cifar, "--version", cwd=tmp_path, env=env) == f"cifar {__version__}\n"
    words = ("--dataset", "shapes", "--fast-dev-run", "--name", "first")
    run(*cifar, "train", *words, cwd=tmp_path, env=env)
    run(*cifar, "evaluate", "runs/first", cwd=tmp_path, env=env)
    program = (
        "from cifar_cli.core.doctor.gather import packages_of; print([p.tested for p in packages_of('cifar-cli')])"
    )
    tested = run(sys.executable, "-c", program, cwd=tmp_path, env=env)
    assert "None" not in tested
    assert tested.count("'") > 30
