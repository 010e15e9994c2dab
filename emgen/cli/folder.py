"""The folder of a run: claimed by one exclusive step, written file by file, and never cleared of
what it did not write.
"""

__all__ = ["RunFolder", "is_first_process", "status_of", "write_atomically"]

import contextlib
import errno
import fcntl
import itertools
import json
import os
import platform
import secrets
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from emgen.callbacks.checkpoint import AtomicCheckpointIO, damage
from emgen.errors import UserError, told
from emgen.evaluation.runs import strict_json

# What a run writes. In a folder that holds no run a file of such a name is the user's, and stays as
# it is.
OURS = (
    ".hydra",
    "00000",  # of TensorBoard's projector, as the configuration is beside it
    "checkpoints",
    "config.yaml",
    "evaluation.json",
    "export",
    "figures",
    "hparams.yaml",
    "metrics.csv",
    "projector_config.pbtxt",
    "samples",
    "status.json",
    "summary.json",
)
LOCK = ".emgen.lock"  # empty; what counts is who holds it
NO_LOCKS = (
    errno.ENOLCK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
)  # said by a file system without advisory locks


class RunFolder:
    """`.hydra/`, `config.yaml`, `checkpoints/`, `metrics.csv`, `summary.json`, `status.json`,
    `figures/` of one run.

    A process claims the folder before it writes anything there, by an advisory lock (`flock`) on
    `.emgen.lock`, which the kernel gives back however the process ends. What is refused before
    training began leaves nothing: the files that this process made go one by one, and the folder
    itself only if this process made it and it is empty again. A parent stays.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoint_io = AtomicCheckpointIO()
        self.started = False  # whether the record of this run has been written
        self._lock: int | None = None
        self._made_folder = False
        self._made_lock = False

    @classmethod
    def new(cls, path: str | Path) -> "RunFolder":
        """A folder that no other process has: `path`, or where that exists `path-2`, `path-3`, ...,
        made and claimed.

        Raises:
            UserError: it cannot be written.
        """
        for number in itertools.count(1):
            folder = cls(path if number == 1 else f"{path}-{number}")
            if not is_first_process():
                return folder
            try:
                folder.path.parent.mkdir(parents=True, exist_ok=True)
                folder.path.mkdir()
            except FileExistsError:
                if folder.path.parent.is_dir():
                    continue
                raise UserError(_unwritable(folder.path, "its parent is a file")) from None
            except OSError as error:
                raise UserError(_unwritable(folder.path, error.strerror)) from error
            folder._made_folder = True
            folder.claim()
            return folder
        raise AssertionError  # numbers do not end

    @property
    def used(self) -> bool:
        """Whether there is progress here that a new run would write over."""
        names = ("checkpoints/last.ckpt", "checkpoints/last.ckpt.previous", "summary.json")
        return any((self.path / name).exists() for name in names)

    @property
    def command(self) -> str:
        """What goes on with the run."""
        return f"emgen {shlex.quote(f'resume={self.path}')}"

    @property
    def scoring(self) -> str:
        """What scores the run."""
        return f"emgen evaluate {shlex.quote(f'run={self.path}')}"

    # ---- whose folder it is ---------------------------------------------------------------------

    def claim(self, resume: bool = False) -> None:
        """Make the folder this process's own until `release`; claimed already, nothing happens.

        Of several processes of one run the first claims for all.

        Args:
            resume: whether the run in the folder is to be continued; without it a folder that holds
                one is refused.

        Raises:
            UserError: another process trains here, the folder holds a run or files of the user's
                that would be written over, or it cannot be written. Nothing has been changed then.
        """
        if self._lock is not None or not is_first_process():
            return
        try:
            self._make_and_lock()
        except OSError as error:
            self.release()
            reason = (
                "it is a file" if error.errno in (errno.EEXIST, errno.ENOTDIR) else error.strerror
            )
            raise UserError(_unwritable(self.path, reason)) from error
        except UserError:
            self.release()
            raise
        refusal = self._refusal(resume)
        if refusal:
            self.release()
            raise UserError(refusal)

    def release(self) -> None:
        """Give the folder back; of a run that was never begun nothing stays."""
        if self._lock is not None:
            if self._made_lock:
                with contextlib.suppress(OSError):
                    (self.path / LOCK).unlink()
            os.close(self._lock)
            self._lock = None
        if self._made_folder and not self.started:
            with contextlib.suppress(OSError):  # somebody has put a file there, which is theirs
                self.path.rmdir()
        self._made_folder = self._made_lock = False

    def _make_and_lock(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path.mkdir()
            self._made_folder = True
        except FileExistsError:
            if not self.path.is_dir():
                raise
        for _ in range(20):  # who only looks whether a run is alive holds the lock for an instant
            handle, made = _open_lock(self.path / LOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                time.sleep(0.01)
                continue
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    os.close(handle)
                    raise
                if not made:  # without locks the file itself is the claim
                    os.close(handle)
                    raise UserError(
                        f"{_busy(self.path)} If none is, for this file system has no locks, remove"
                        f" {self.path / LOCK}."
                    ) from error
            if _is_same_file(handle, self.path / LOCK):
                self._lock, self._made_lock = handle, made
                return
            os.close(handle)  # its owner removed it meanwhile: there is another one now, or none
        raise UserError(_busy(self.path))

    def _refusal(self, resume: bool) -> str:
        """Why the folder cannot be used, in a sentence; empty if it can."""
        if _says_running(
            self.path
        ):  # by its own account; where locks are no help, or written by an older version
            return _busy(self.path)
        if resume:
            return ""
        theirs = (
            []
            if _holds_a_run(self.path)
            else [name for name in OURS if os.path.lexists(self.path / name)]
        )
        if theirs:
            return (
                f"paths.run_dir={self.path} holds {', '.join(theirs)}, which no run of emgen has"
                " left there and which a run would write over: name another folder."
            )
        if self.used:
            return (
                f"{self.path} already holds a run: add resume=auto to continue it, or choose"
                " another paths.run_dir."
            )
        return ""

    # ---- what is written ------------------------------------------------------------------------

    def begin(self, config: dict[str, Any], hydra: dict[str, Any] | None = None) -> None:
        """Write down what runs: a status of `running`, the resolved `config.yaml`, and under
        `.hydra/` what Hydra keeps.

        Args:
            config: the resolved configuration.
            hydra: `config.yaml`, `hydra.yaml` and `overrides.yaml` as OmegaConf objects; None where
                Hydra did not run.
        """
        if not is_first_process():
            return
        self.claim(resume=True)
        self.started = True
        self.write_status("running")
        write_atomically(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        for name, content in (hydra or {}).items():
            write_atomically(self.path / ".hydra" / name, OmegaConf.to_yaml(content))

    def write_status(self, status: str, message: str = "") -> None:
        """running, finished, failed or interrupted, with a sentence for the last two; of a run that
        has begun.
        """
        if not self.started or not is_first_process():
            return
        content = {
            "status": status,
            "message": message,
            "pid": os.getpid(),
            "host": platform.node(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_atomically(self.path / "status.json", strict_json(content))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`, once, at the end."""
        if is_first_process():
            write_atomically(self.path / "summary.json", strict_json(summary))

    def failed(self, error: Exception) -> str:
        """Record what ended the run, of which a request that was refused leaves no trace; returns
        it in one sentence.
        """
        message = told(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            again = (self.path / "checkpoints" / "last.ckpt").exists()
            on = f"go on with: {self.command}" if again else "start it again elsewhere"
            message = f"{self.path} cannot be written ({error.strerror}): make room, and {on}"
        with contextlib.suppress(OSError):
            self.write_status("failed", message)
        return message

    # ---- what is read ---------------------------------------------------------------------------

    def checkpoint(self, name: str) -> Path | None:
        """`checkpoints/<name>.ckpt`, or the one before it where that is damaged (which is told);
        None if the run wrote none.

        Raises:
            UserError: both are damaged.
        """
        path = self.path / "checkpoints" / f"{name}.ckpt"
        if not path.exists():
            return None
        reason = damage(path)
        if not reason:
            return path
        previous = path.with_name(f"{path.name}.previous")
        if not previous.exists() or damage(previous):
            raise UserError(
                f"the checkpoint {path} is damaged ({reason}) and there is no whole one before it:"
                " train the run again."
            )
        if is_first_process():
            print(
                f"emgen: warning: the checkpoint {path} is damaged ({reason}); going on from the"
                f" one before it, {previous.name}.",
                file=sys.stderr,
            )
        return previous

    def refuse_if_beyond(self, epochs: int) -> None:
        """
        Raises:
            UserError: `last.ckpt` was written after so many epochs.
        """
        path = self.path / "checkpoints" / "last.ckpt"
        if not damage(path) and self.checkpoint_io.load_checkpoint(path).get("epoch", 0) >= epochs:
            raise UserError(
                f"lightning.max_epochs={epochs}: {self.path} has gone beyond that; ask for more, or"
                " leave it out."
            )


def status_of(run: str | Path) -> str:
    """What a run says of itself; one that says `running` but whose process is gone was cut off."""
    content = _status(Path(run))
    if content is None:
        return "unknown"
    if content["status"] != "running":
        return str(content["status"])
    return "running" if _is_locked(Path(run)) or _says_running(Path(run)) else "interrupted"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by a whole new one: a reader sees the old or the new, and a link is replaced,
    not followed.

    Raises:
        OSError: the folder cannot be written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(beside, "x", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _unwritable(path: Path, reason: str | None) -> str:
    return f"paths.run_dir={path} cannot be written ({reason}): name another folder."


def _busy(path: Path) -> str:
    return (
        f"{path} is being trained by another process: wait for it or stop it, or choose another"
        " paths.run_dir."
    )


def is_first_process() -> bool:
    """Whether this is the process that writes: ranks that a launcher started say so in the
    environment.
    """
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
    ranks = (os.environ.get(name, "0") for name in names)
    return all(rank in ("0", "") for rank in ranks)


def _open_lock(path: Path) -> tuple[int, bool]:
    """The lock file's handle and whether it was made by this call; an existing one is opened as it
    is.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW), False


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _is_locked(run: Path) -> bool:
    """Whether a living process holds the lock of a run folder."""
    try:
        handle = os.open(run / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _says_running(run: Path) -> bool:
    """Whether status.json says `running` and was written by a process of this machine that still
    lives, other than this one.
    """
    content = _status(run)
    if content is None or content["status"] != "running":
        return False
    pid = content.get("pid")
    if (
        not isinstance(pid, int)
        or pid in (0, os.getpid())
        or content.get("host") != platform.node()
    ):
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # somebody else's
    except (OSError, OverflowError):
        return False
    return (
        _born(pid) <= (run / "status.json").stat().st_mtime + 2.0
    )  # else the number went to another process since


def _born(pid: int) -> float:
    """When a process started, in seconds since the epoch, to a second or so; -inf where the system
    does not tell.
    """
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        booted = next(
            line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
        )
        return float(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return -float("inf")


def _holds_a_run(path: Path) -> bool:
    """Whether a run of ours has been here, with or without progress."""
    return _status(path) is not None


def _status(run: Path) -> dict[str, Any] | None:
    """The content of status.json if it is one of ours."""
    try:
        content = json.loads((run / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(content, dict) and {"status", "pid", "host"} <= content.keys()
    return content if ours else None
