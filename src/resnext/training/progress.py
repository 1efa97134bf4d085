"""Show the progress of a run: a live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from resnext.screen import print_line
from resnext.training.state import Position

T = TypeVar("T")
PLAIN_INTERVAL = 30.0  # seconds between lines without a terminal


class Reporter:
    """Show steps done, images per second, and the share of time spent waiting for data."""

    def __init__(self, console: Console, position: Position, total_steps: int, is_main: bool = True) -> None:
        self.console = console
        self.quiet = not is_main
        self.total = total_steps
        self.steps_done = position.step
        self.live = console.is_terminal and not self.quiet
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.task: TaskID = self.progress.add_task("steps", total=self.total, completed=self.steps_done, facts="")
        self.start_epoch()
        self.last_plain = time.perf_counter()

    def __enter__(self) -> "Reporter":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def report_start(self, position: Position, about: Iterable[str]) -> None:
        """Print the lines ``about`` the run, and the step it resumes after."""
        for text in about:
            self.print_line(text)
        if position.stopped is not None:
            self.print_line(f"stopped {position.stopped}; writing the results again")
        elif self.steps_done == self.total:
            self.print_line("all steps are already done; writing the results again")
        elif position.step:
            self.print_line(f"resuming after step {position.step:,} (epoch {position.epoch + 1})")

    def start_epoch(self) -> None:
        """Reset the counts of images and waiting time."""
        self.started = time.perf_counter()
        self.wait_seconds = 0.0
        self.images = 0

    def time_batches(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches and add up the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.wait_seconds += time.perf_counter() - start
            yield batch

    def report_step(self, epoch: int, images: int, loss: float) -> None:
        """Show that a step of ``images`` images is done."""
        self.images += images
        self.steps_done += 1
        if self.live:
            facts = f"{self.images_per_second:,.0f} images/s  wait {100 * self.wait_share:.0f} %  loss {loss:.4f}"
            self.progress.update(self.task, advance=1, description=f"epoch {epoch}", facts=facts)
        elif time.perf_counter() - self.last_plain > PLAIN_INTERVAL:
            self.print_line(
                f"epoch {epoch}  step {self.steps_done}/{self.total}  loss {loss:.4f}  "
                f"{self.images_per_second:,.0f} images/s  data wait {100 * self.wait_share:.0f} %"
            )

    def report_epoch(self, row: dict[str, Any], speed: dict[str, Any], facts: Iterable[str]) -> None:
        """Print a line for a finished epoch: ``facts`` about its row, then its speed."""
        parts = [f"epoch {row['epoch']:>3}", *facts]
        parts.append(f"{speed['images_per_second']:,.{0 if speed['images_per_second'] >= 10 else 1}f} images/s")
        parts[-1] += f", data wait {100 * speed['data_wait_share']:.0f} %"
        if row["bad_images"]:
            count = row["bad_images"]
            parts.append(f"{count} unreadable image{'s' * (count != 1)} skipped")
        self.print_line("  ".join(parts))

    def print_line(self, text: str) -> None:
        """Print a line."""
        self.last_plain = time.perf_counter()
        if not self.quiet:
            print_line(self.console, text)

    @property
    def epoch_seconds(self) -> float:
        """Seconds since the epoch started."""
        return time.perf_counter() - self.started

    @property
    def images_per_second(self) -> float:
        """Images per second in this epoch."""
        return self.images / max(self.epoch_seconds, 1e-9)

    @property
    def wait_share(self) -> float:
        """Share of this epoch's time spent waiting for data."""
        return self.wait_seconds / max(self.epoch_seconds, 1e-9)
