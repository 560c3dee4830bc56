"""What a person sees while a run goes on: plain lines, and a live bar where there is a terminal."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from hiperjax.envs.workers import EnvFailure
from hiperjax.files import dump_json, write_text
from hiperjax.streams import SafeStream, tell
from hiperjax.training.evaluation import Evaluation
from hiperjax.training.record_files import PROGRESS

WIDTH = 20


def draw_bar(rate: float, width: int = WIDTH) -> str:
    """A share as a bar of blocks."""
    full = round(rate * width)
    return "█" * full + "·" * (width - full)


LOG = "console.log"


class Progress:
    """Console of one run of `iterations` iterations; a `quiet` one says nothing.

    Its lines also go to `console.log` in `folder`. Nothing that becomes of a stream is an error.
    """

    def __init__(self, iterations: int, *, quiet: bool = False, folder: pathlib.Path | None = None):
        self.iterations = iterations
        self._log = None if folder is None or quiet else folder / LOG
        self._now = None if folder is None or quiet else folder / PROGRESS
        self._phase = ("", 0.0)
        stream = SafeStream(sys.stdout, self._lose)
        self.console = Console(
            file=stream,  # type: ignore[arg-type]
            soft_wrap=True,
            highlight=False,
            quiet=quiet,
        )
        self._start = time.perf_counter()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=iterations)
        if self.console.is_terminal:
            self._bar.start()

    def _lose(self, text: str) -> None:
        """The console is gone: say so once, elsewhere."""
        self._note(f"console: {text}")
        tell(text)

    def _note(self, text: str) -> None:
        """A line for the run folder's copy, which may be on a full disk."""
        if self._log is not None:
            with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as file:
                file.write(text.encode("utf-8", "replace").decode() + "\n")

    def phase(self, name: str, done: int | float = 0, total: int | float = 0) -> None:
        """What goes on now, for whoever watches the folder: how much of how much, if known."""
        if self._now is None:
            return
        now = time.time()
        if name != self._phase[0]:
            self._phase = name, now
        record = {"phase": name, "since": self._phase[1], "updated": now, "done": done,
                  "total": total}  # fmt: skip
        with contextlib.suppress(OSError):  # a full disk hides the phase, no more
            write_text(self._now, dump_json(record) + "\n", durable=False)

    @property
    def elapsed(self) -> float:
        """Seconds since this session began."""
        return time.perf_counter() - self._start

    def say(self, text: str, style: str | None = None) -> None:
        """A plain line, with the time since the start."""
        line = f"{self.elapsed:6.0f} s  {text}"
        self._note(line)
        self.console.print(line, markup=False, style=style)

    def warn(self, text: str) -> None:
        """A line that should not be missed."""
        self.say(f"warning: {text}", style="yellow")

    def imitation(
        self, step: int, steps: int, loss: float, held_loss: float, said: str = ""
    ) -> None:
        """One measurement of imitation."""
        self.phase("imitation", step, steps)
        more = f"   {said}" if said else ""
        self.say(f"imitation {step:5d}/{steps}   loss {loss:.3f}   held-out {held_loss:.3f}{more}")

    def imitation_pace(self, step: int, steps: int, loss: float, slots: float) -> None:
        """How fast imitation goes, in token slots per second."""
        self.phase("imitation", step, steps)
        self.say(f"imitation {step:5d}/{steps}   loss {loss:.3f}   {slots:,.0f} token slots/s")

    def lost(self, failures: Sequence[EnvFailure]) -> None:
        """Episodes the environment lost: each with its cause, the first one's in full."""
        for number, failure in enumerate(failures):
            cause = failure.cause if number else failure.error
            self.say(f"episode of task {failure.task_id} lost: {cause}")

    def evaluation(self, iteration: int, result: Evaluation) -> None:
        """One evaluation of one split."""
        (low, high), rate = result.overall.interval, result.overall.rate
        losses = result.describe_losses()
        if losses:
            self.lost(result.failures)
            self.warn(f"evaluation at {iteration:3d}  {result.split}: {losses}")
        if not result.trajectories:
            return
        self.say(
            f"evaluation at {iteration:3d}  {result.split} {draw_bar(rate)} {rate:.3f} "
            f"[{low:.2f}, {high:.2f}] of {result.overall.trials} tasks"
        )

    def iteration(
        self, iteration: int, metrics: Mapping[str, float], seconds: Mapping[str, float]
    ) -> None:
        """One line per iteration."""
        self._bar.update(self._task, completed=iteration)
        m = metrics
        self.say(
            f"iteration {iteration:3d}/{self.iterations}  success {m['success']:.2f}  "
            f"switch {m['switch_share']:.2f}  segment {m['segment_length']:.1f}  "
            f"malformed {m['malformed_share']:.2f}  turns {m['episode_length']:.1f}  "
            f"({', '.join(f'{k} {v:.1f}' for k, v in seconds.items())} s)"
        )
        if m.get("trimmed_prompts"):
            self.say(
                f"  {m['trimmed_prompts']:.0f} prompts exceeded prompt.prompt_length: "
                f"{m['trimmed_tokens']:.0f} tokens cut from the ends of their observations"
            )

    def finish(
        self, folder: pathlib.Path, iteration: int, best: float, best_at: int, stopped: str
    ) -> None:
        """What happened, and what to look at next; `stopped` says where, empty at the end."""
        self.phase("stopped" if stopped else "done")
        self._bar.stop()
        if stopped:
            self.say(f"stopped {stopped}. Go on with:")
            self.say(f"  hiperjax train --resume {folder}")
            return
        self.say(f"done: {iteration} iterations; best success {best:.3f}, evaluated at {best_at}")
        self.say(f"  hiperjax evaluate {folder}           success per task type")
        self.say(f"  hiperjax play --run {folder}         watch it think")
        self.say(f"  hiperjax report {folder}             curves and episodes as one page")
        self.say(f"  {folder}/samples                     episodes as text")
        self.say(f"  tensorboard --logdir {folder}        curves")
