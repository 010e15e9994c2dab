"""The built wheel, in an empty folder: it carries its options and its data, and it trains."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_installed_in_an_empty_folder_trains(tmp_path):
    """Built without network from a copy of what is shipped, so that nothing stale in build/ is packed."""
    source, wheels, site, empty = (
        tmp_path / name for name in ("source", "wheels", "site", "empty")
    )
    empty.mkdir()
    for folder in ("emgen", "configs"):
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", wheels, source],
        check=True,
    )
    (wheel,) = wheels.glob("emgen-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        f"emgen/configs/{p.relative_to(ROOT / 'configs').as_posix()}"
        for p in (ROOT / "configs").rglob("*.yaml")
    }
    shipped |= {
        p.relative_to(ROOT).as_posix()
        for ext in ("py", "csv", "txt", "html")
        for p in (ROOT / "emgen").rglob(f"*.{ext}")
    }
    assert shipped <= packed, f"the wheel lacks {sorted(shipped - packed)}"

    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    assert (site / "bin" / "emgen").exists()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [
        sys.executable,
        "-P",
        "-c",
        "import emgen, sys; print(emgen.__file__, file=sys.stderr); import emgen.__main__ as m; m.main()",
    ]
    options = [
        "trainer=em",
        "model=gaussian_mixture",
        "data=old_faithful",
        "lightning.max_epochs=2",
        "paths.run_dir=run",
    ]
    done = subprocess.run(
        [*command, *options], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stderr  # and not the one that is being developed
    assert {"summary.json", "metrics.csv", "config.yaml", "checkpoints"} <= {
        p.name for p in (empty / "run").iterdir()
    }
