"""The command line: each command loads its config and calls one function."""

import contextlib
import ctypes
import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence

USER_ERROR = 2
RETRY = 75  # EX_TEMPFAIL of sysexits.h: a lost rank, or a hang; the same command may succeed
INTERRUPTED = 130
STDOUT = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of glibc's malloc.h
SIGNALLED = 128  # a shell's own convention: 128 + the number of the signal
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RAISED_BELOW = (
    ("helix.kernels", "BackendError"),
    ("helix.kernels.tuned", "TunedError"),
    ("helix.training.rollback", "TrainingError"),
    ("helix.training.peers", "PeerFailedError"),
    ("helix.training.checkpoint", "CheckpointError"),
    ("slurm.queue", "SlurmError"),
)


def run_demo(arguments: Sequence[str]) -> int:
    """Text to tokenizer to shards to a trained model to text, on this machine."""
    from helix.config import split_words
    from helix.demo import DemoConfig, demo

    return status_of(demo(*split_words(arguments, DemoConfig)))


def run_data(arguments: Sequence[str]) -> int:
    """Make, inspect and verify data: `helix data --help` lists the verbs, VERB --help tells."""
    from data_tools.options import main as run_verb

    run_verb(arguments)
    return 0 if arguments else USER_ERROR


def run_train(arguments: Sequence[str]) -> int:
    """Train a run, or go on: run_dir=... preset=... data.path=... tokenizer.path=..."""
    from helix.config import load
    from helix.presets import PRESETS
    from helix.training.trainer import train
    from slurm.environment import adopt

    adopt(os.environ)
    return status_of(train(load(arguments, PRESETS)))


def run_launch(arguments: Sequence[str]) -> int:
    """Run on SLURM: nodes= gpus_per_node= -- run_dir= preset= ...; status | logs | cancel."""
    from slurm.launch import main as launch

    return launch(arguments)


def run_generate(arguments: Sequence[str]) -> int:
    """Stream text: run_dir=... prompt=... [temperature= top_p= seed= n_tokens= backends=]."""
    from helix.config import load_options
    from helix.generate import GenerateConfig, generate

    generate(load_options(GenerateConfig, arguments))
    return 0


def run_plan(arguments: Sequence[str]) -> int:
    """Say what it costs: preset= [n_gpus= zero_stage= micro_batch_rows= n_context= json=]."""
    from helix.config import load, split_words
    from helix.plan import PlanConfig
    from helix.plan.tables import print_plan
    from helix.presets import PRESETS

    options, words = split_words(arguments, PlanConfig)
    print_plan(load(words, PRESETS), options)
    return 0


def run_evaluate(arguments: Sequence[str]) -> int:
    """Evaluate: run_dir= [tasks= out= json=]; or NAME run_dir= ...; compare A B; throughput."""
    from evals.suite import read
    from slurm.environment import adopt

    evaluate = read(arguments)
    adopt(os.environ)
    evaluate()
    return 0


def run_report(arguments: Sequence[str]) -> int:
    """Write a run's evidence sheet: run_dir= [results= out=]; or compare RUN_A RUN_B ... [out=]."""
    from evals.report import run

    run(arguments)
    return 0


def run_sync(arguments: Sequence[str]) -> int:
    """Send a run's figures: run_dir= [to=wandb|tensorboard mode=online|offline project= json=]."""
    from helix.config import load_options
    from helix.sync import SyncConfig, sync

    sync(load_options(SyncConfig, arguments))
    return 0


def run_watch(arguments: Sequence[str]) -> int:
    """Show where a run is, live: run_dir= [every_s= once=true json=true]."""
    from helix.config import load_options
    from helix.watch import WatchConfig, watch

    watch(load_options(WatchConfig, arguments))
    return 0


def run_export(arguments: Sequence[str]) -> int:
    """Give weights away: consolidated run_dir= out= [step= dtype=]; or list run_dir= [json=]."""
    from helix.config import ConfigError, load_options, suggestion
    from helix.export import ConsolidatedConfig, ListConfig, export_consolidated, print_list

    verb, *words = arguments or [""]
    if verb == "consolidated":
        export_consolidated(load_options(ConsolidatedConfig, words))
    elif verb == "list":
        print_list(load_options(ListConfig, words))
    else:
        hint = suggestion(verb, ["consolidated", "list"])
        raise ConfigError(f"export {verb}: no such verb{hint}")
    return 0


def run_doctor(arguments: Sequence[str]) -> int:
    """Say what is installed and which kernels run here: [json=true]; tune out=; preflight ..."""
    from helix.config import ConfigError, load_options, suggestion

    if not arguments or "=" in arguments[0]:
        from helix.doctor import DoctorConfig, print_findings

        print_findings(load_options(DoctorConfig, arguments))
        return 0
    verb, *words = arguments
    if verb == "preflight":
        return run_preflight(words)
    if verb != "tune":
        raise ConfigError(f"doctor {verb}: no such verb{suggestion(verb, ['tune', 'preflight'])}")
    tune_kernels(words)
    return 0


def run_preflight(words: Sequence[str]) -> int:
    """Check a run on its own nodes before it is trained: the words of train [hashes= json=]."""
    from helix.config import split_words
    from helix.preflight import PreflightConfig, preflight
    from slurm.environment import adopt

    adopt(os.environ)
    options, rest = split_words(words, PreflightConfig)
    return preflight(rest, options)


def tune_kernels(words: Sequence[str]) -> None:
    """Search launch constants on this GPU: out=FILE.json [preset= kernels=gla,ssd json=true]."""
    from helix.config import load, split_words
    from helix.presets import PRESETS
    from helix.tune import PRESET, TuneConfig, tune

    options, rest = split_words(words, TuneConfig)
    if not any(word.startswith("preset=") for word in rest):
        rest = [f"preset={PRESET}", *rest]
    tune(load(rest, PRESETS), options)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": run_demo,
    "data": run_data,
    "train": run_train,
    "launch": run_launch,
    "generate": run_generate,
    "plan": run_plan,
    "doctor": run_doctor,
    "watch": run_watch,
    "sync": run_sync,
    "export": run_export,
    "evaluate": run_evaluate,
    "report": run_report,
}


def status_of(signal_number: int) -> int:
    """Give the exit status for a run that a signal stopped, and say so; 0 for one that ended."""
    if not signal_number:
        return 0
    if os.environ.get("RANK", "0") == "0":
        name = signal.Signals(signal_number).name
        is_time_up = signal_number == signal.SIGALRM  # as helix.training.stops has it
        why = "the deadline" if is_time_up else name
        print(f"helix: stopped by {why} and saved; the same command goes on", file=sys.stderr)
    return SIGNALLED + signal_number


def usage() -> str:
    """List the commands, each with its one line."""
    lines = [f"  {name:10} {(run.__doc__ or '').strip()}" for name, run in COMMANDS.items()]
    return "usage: helix COMMAND key=value ...\n\n" + "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run one command; give its exit status. What a person must mend is told in one line.

    Args:
        arguments: The words after `helix`. The deepspeed launcher's --local_rank is passed over:
            the environment says the same.
    """
    try:
        status = run_command(arguments)
        print(end="", flush=True)  # here, where a reader that has gone is told from a bug
        return status
    except KeyboardInterrupt:
        print("helix: interrupted; what is on disk is whole: run it again", file=sys.stderr)
        return INTERRUPTED
    except (Exception, SystemExit) as error:
        if is_unread(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # `| head` has seen enough
            return USER_ERROR
        if isinstance(error, SystemExit):
            raise
        return status_of_error(error)


def run_command(arguments: Sequence[str]) -> int:
    """Run the command that the words name, or tell of it; see `main`."""
    words = [word for word in arguments if not word.startswith("--local_rank")]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if words else USER_ERROR
    name, *rest = words
    if name not in COMMANDS:
        from helix.config import suggestion

        print(f"helix: {name}: no such command{suggestion(name, COMMANDS)}", file=sys.stderr)
        return USER_ERROR
    if name != "data" and any(word in ("-h", "--help") for word in rest):
        print(f"helix {name}: {COMMANDS[name].__doc__}")
        return 0
    return COMMANDS[name](rest)


def is_unread(error: BaseException) -> bool:
    """Tell whether an error is but that nobody reads what we print any more."""
    if isinstance(error, SystemExit):  # which rich makes of it, and turns stdout away
        return isinstance(error.__context__, BrokenPipeError)
    if not isinstance(error, BrokenPipeError):
        return False
    reader = select.poll()
    reader.register(STDOUT, 0)
    return any(event & select.POLLERR for _, event in reader.poll(0))


def status_of_error(error: Exception) -> int:
    """Tell an error in one line and give its exit status; a bug of ours is raised as it is."""
    is_retried = is_lost_peer(error)
    if not is_retried and not is_users_to_mend(error):
        raise error
    print(f"helix: {explain(error)}", file=sys.stderr)
    return RETRY if is_retried else USER_ERROR


def is_users_to_mend(error: Exception) -> bool:
    """Tell errors about settings, data, disks and checkpoints from bugs of ours."""
    from helix.config import ConfigError
    from helix.data import DataError
    from helix.tokenizer import TokenizerError

    kinds: tuple[type[Exception], ...] = (ConfigError, DataError, TokenizerError, OSError)
    for module, name in RAISED_BELOW:
        if module in sys.modules:  # what was never imported raised nothing
            kinds += (getattr(sys.modules[module], name),)
    return isinstance(error, kinds)


def is_lost_peer(error: Exception) -> bool:
    """Tell the loss of another rank from all that is wrong here."""
    if "helix.training.peers" not in sys.modules:
        return False
    from helix.training.peers import LostPeerError, is_lost_peer

    return isinstance(error, LostPeerError) or is_lost_peer(error)


def explain(error: Exception) -> str:
    """Put an error into one line, with what to do where the system's own words do not tell."""
    line = " ".join(str(error).split("\n"))
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        line += "; what is on disk is whole: free some space and run the same command again"
    return line


def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors for the next ones.

    As it comes, glibc gives those above 32 MiB back to the system and is given zeroed pages anew:
    of an evaluation on a CPU, half the time (9.4 s of system time, 1.1 s so).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has its own ways
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class Stderr(io.TextIOWrapper):
    """Standard error that may lose its reader: no run ends because nobody reads of its progress."""

    def write(self, text: str) -> int:
        """Write, or from now on to nobody."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self.turn_away()
            return len(text)

    def flush(self) -> None:
        """Flush, or turn to nobody."""
        try:
            super().flush()
        except BrokenPipeError:
            self.turn_away()

    def turn_away(self) -> None:
        """Write to nobody, as all in this process will that has the same descriptor."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def prepare_streams() -> None:
    """Have output survive a terminal that lacks a letter, and progress one that is gone."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = Stderr(
            sys.stderr.buffer,
            encoding=sys.stderr.encoding,
            errors=sys.stderr.errors,
            line_buffering=True,
        )


def console() -> int:
    """Run the command line of this process."""
    prepare_streams()
    keep_freed_memory()
    # Threads that wait by spinning halve the speed of a CPU that is shared (measured: 832 against
    # 452 ms a step beside another run), and gain nothing on one that is not. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    status, was_rank = USER_ERROR, False
    try:
        status = main(sys.argv[1:])
    finally:
        ranks = sys.modules.get("helix.distributed")  # what was never imported joined no ranks
        if ranks is not None:
            was_rank = ranks.leave(together=status not in (USER_ERROR, RETRY))
    if ranks is not None and was_rank:
        ranks.end_process(status)
    return status
