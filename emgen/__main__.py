"""`emgen` and `python -m emgen`: a question about the command line costs no training framework."""

__all__ = ["main"]

import os
import sys


def main() -> None:
    """Answer --help and --version at once, hand everything else to `emgen.cli`."""
    if sys.path[:1] in (
        [""],
        [os.getcwd()],
    ):  # `python -m` looks there first: a user's random.py would stand in for Python's
        del sys.path[0]
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            from emgen.cli.help import help_text

            print(help_text(), flush=True)
        elif "--version" in sys.argv[1:]:
            from emgen import __version__

            print(f"emgen {__version__}", flush=True)
        else:
            from emgen.cli.entry import main as run

            run()
    except KeyboardInterrupt:  # while the frameworks were being imported
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
