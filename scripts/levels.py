"""Climb the nine levels: every level's experiment in order, and the picture of the README.

python scripts/levels.py                    all levels, each into runs/levels/<experiment>
python scripts/levels.py level3 level9      these alone
python scripts/levels.py --picture          .github/demo.png from the runs of `make demo`
"""

import argparse
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path


def experiments(wanted: list[str]) -> list[str]:
    """The experiments `level<N>_<name>` in order, or those that begin with a wanted word."""
    found = sorted(
        f.name.removesuffix(".yaml")
        for f in (files("emgen.configs") / "experiment").iterdir()
        if f.name.startswith("level")
    )
    chosen = [name for name in found if not wanted or any(name.startswith(word) for word in wanted)]
    if not chosen:
        sys.exit(
            f"levels.py: no experiment begins with {' or '.join(wanted)}; there are"
            f" {', '.join(found)}."
        )
    return chosen


def climb(names: list[str]) -> None:
    """Run each experiment in a process of its own and say how long it took and how it ended."""
    failed = []
    for name in names:
        start, folder = time.time(), Path("runs/levels") / name / time.strftime("%Y-%m-%d_%H-%M-%S")
        print(f"\n{name}", flush=True)
        code = subprocess.run(
            [sys.executable, "-m", "emgen", f"experiment={name}", f"paths.run_dir={folder}"]
        ).returncode
        print(
            f"{name}: {'done' if code == 0 else f'ended with {code}'} in"
            f" {time.time() - start:.0f} s",
            flush=True,
        )
        failed += [name] if code else []
    sys.exit(f"levels.py: {', '.join(failed)} did not finish." if failed else 0)


def picture(source: Path, target: Path) -> None:
    """The sample grids of the demo's four runs side by side, each under its test log-likelihood."""
    import json

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = sorted(source.glob("*/*/summary.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        sys.exit(f"levels.py: no finished run in {source}; run `make demo` first.")
    figure, axes = pyplot.subplots(1, len(runs), figsize=(3 * len(runs), 3.5), squeeze=False)
    for axis, path in zip(axes[0], runs):
        summary = json.loads(path.read_text())
        axis.imshow(pyplot.imread(path.parent / "figures" / "samples.png"))
        axis.set_title(
            f"{summary['trainer']}\nlog p(x) ≥ {summary['metrics']['test/log_likelihood']:.1f}"
            " nats",
            fontsize=11,
        )
        axis.axis("off")
    figure.tight_layout()
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=80, bbox_inches="tight")
    print(target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", help="the beginnings of experiment names; none runs all"
    )
    parser.add_argument(
        "--picture", action="store_true", help="draw .github/demo.png from runs/demo"
    )
    arguments = parser.parse_args()
    if arguments.picture:
        picture(Path("runs/demo"), Path(".github/demo.png"))
    else:
        climb(experiments(arguments.names))


if __name__ == "__main__":
    main()
