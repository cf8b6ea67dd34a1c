"""How a command ends: one line on standard error and an exit code, whatever it raises and whichever signal stops it.

0 done, 1 a check or a run that failed, 2 bad input or a machine that cannot (a full disk, no memory left), 128 + n a
signal. An error that is none of these keeps its traceback: it is a mistake in this suite. One in a method is told with
the line of its file; with ``MBIL_TRACEBACK=1`` in the environment all lines that led there stand above.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from benchmark.errors import Interrupted, RunFailed, UserError

CONTINUES = "interrupted: the same command continues"
PATIENCE = 8.0  # seconds from a signal to the end, whatever holds it up
ORPHANED = 2.0  # seconds within which a process that follows another one is ended after it
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
OF_THE_SYSTEM = re.compile(r"\(os error (\d+)\)")  # safetensors tells of an OSError so
NO_MEMORY = (
    "can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip  # in the messages of torch's RuntimeErrors

Heard = list[int]  # the signals that have come


def ended(act: Callable[[], int], patience: float | None = PATIENCE, silent: bool = False) -> int:
    """What ``act`` returns, or the exit code of what it raises, which is told in one line.

    Args:
        patience: seconds from a signal to the end of the process; None: as long as it takes. A process that copies
            itself takes None, for what watches the time is a thread.
        silent: tell nothing of what another process tells as well: a signal, a run that failed. Any other error may
            come of that process's end, and then the one that watches it ends this one before it is told.
    """
    heard: Heard = []
    try:
        with _listening(heard), _in_time(heard, patience, silent):
            code = act()
            lost = _unwritten()
            if lost is not None:
                raise lost
            return code
    except Interrupted as stopped:
        line, code = CONTINUES, 128 + stopped.number
    except KeyboardInterrupt:
        line, code = CONTINUES, 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read the output has read enough
        _unwritten()
        return 0
    except BaseException as error:
        told = (CONTINUES, 128 + heard[0]) if heard else in_words(error)
        if told is None:
            time.sleep(ORPHANED if silent else 0)
            raise
        line, code = told
        if os.environ.get("MBIL_TRACEBACK") and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
    if not silent or code == 2:
        _say(line)
    return code


def in_words(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit code of an error; None for one that is no user's and no machine's."""
    if isinstance(error, UserError):
        return f"error: {error}", 2
    if isinstance(error, RunFailed):
        return f"error: {error}", 1
    system = of_system(error)
    if system is not None:
        return f"error: {spoken(system)}", 2
    if out_of_memory(error):
        detail = " ".join(str(error).split())[:200]
        return f"error: out of memory{f' ({detail})' if detail else ''}", 2
    return None


def of_system(error: BaseException) -> OSError | None:
    """What the system refused, if that is what the error tells: an OSError with a number, or a library of one."""
    if isinstance(error, OSError):
        return error if error.errno is not None and error.strerror else None
    number = OF_THE_SYSTEM.search(str(error)) if isinstance(error, Exception) else None
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def spoken(error: OSError) -> str:
    """Path and reason; of a file that takes another's place the path of that one."""
    path = error.filename2 if error.filename2 is not None else error.filename
    if path is None and _unwritten() is not None:
        path = "standard output"
    elif path is None and not _there():
        path = "the working folder"
    path = os.fsdecode(path) if isinstance(path, bytes) else path
    where = "" if path is None or isinstance(path, int) else f"{_shortened(str(path))}: "
    return f"{where}{error.strerror}"


def _there() -> bool:
    """Whether the working folder is."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def out_of_memory(error: BaseException) -> bool:
    """Whether the machine or its device had no memory left; torch's errors are told by their words."""
    known = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    return isinstance(error, MemoryError) or known


def _shortened(path: str, most: int = 300) -> str:
    printable = path.encode("utf-8", "backslashreplace").decode()
    return printable if len(printable) <= most else f"{printable[: most // 2]} ... {printable[-most // 2 :]}"


# ---- signals


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, an interrupt from the keyboard (of a notebook: of its kernel) stops a run as it stops the command; what
    comes out is Python's own KeyboardInterrupt. Left to Lightning, it would end the process."""
    try:
        with _listening([], (signal.SIGINT,)):
            yield
    except Interrupted:
        raise KeyboardInterrupt(CONTINUES) from None


@contextmanager
def _listening(heard: Heard, signals: tuple[signal.Signals, ...] = SIGNALS) -> Iterator[None]:
    """Inside, the first signal raises :class:`Interrupted` and the next ones are not heard; outside all is as it was.

    A signal that is ignored already (nohup, a job in the background) stays ignored. Only a main thread can listen.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]

    def interrupt(number: int, frame: object) -> None:
        heard.append(number)
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def _in_time(heard: Heard, patience: float | None, silent: bool) -> Iterator[None]:
    """Inside, a signal ends the process after ``patience`` seconds, if nothing has until then.

    Python hears a signal between two of its own instructions, and what it raises there may be lost (in a callback of a
    library, which cannot pass it on). Which signal comes the system writes down at once, and a thread reads that.
    What is on disk is whole at any moment.
    """
    if patience is None or threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    done, process = threading.Event(), os.getpid()

    def wait() -> None:
        while data := os.read(read, 64):
            for number in data:
                if number in SIGNALS and os.getpid() == process:
                    heard.append(number)
                    if done.wait(patience):
                        return
                    if not silent:
                        _say(CONTINUES)
                    os._exit(128 + number)

    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watch = threading.Thread(target=wait, name="ends in time", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        done.set()
        os.close(write)
        watch.join()
        os.close(read)


# ---- output


def _unwritten() -> OSError | None:
    """Why what was printed cannot be written; it goes nowhere then, for Python tries again at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        error.filename = "standard output"
        return error
    except ValueError:  # closed
        pass
    return None


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody is there to be told
        print(line, file=sys.stderr, flush=True)
