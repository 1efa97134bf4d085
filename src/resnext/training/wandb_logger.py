"""Log a run to Weights & Biases. Its own environment variables apply: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, ..."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

from resnext.recipe import to_dict
from resnext.run_directory import RunDirectory
from resnext.settings_shared import RecipeBase
from resnext.training.callbacks import EpochResult
from resnext.training.run_logger import PROJECT, RunLogger, list_report_files, select_numbers

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled", "shared"]
INIT_TIMEOUT = 30.0  # seconds for the server to answer at the start


class WandbLogger(RunLogger):
    """A run of Weights & Biases; offline without WANDB_MODE if the user is not logged in. It never asks for a key."""

    package = "wandb"

    def __init__(self) -> None:
        self.logged: wandb.Run | None = None

    def start(self, run: RunDirectory, recipe: RecipeBase, run_id: str | None) -> tuple[str, str]:
        """Begin or go on; offline files lie in the run directory, those of all sittings under one id."""
        import wandb

        given = cast(Mode | None, os.environ.get("WANDB_MODE") or None)  # wandb refuses other words
        mode: Mode = given or ("online" if wandb.login(prompt=False) else "offline")
        self.logged = logged = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            resume="allow" if mode == "online" and run_id is not None else None,  # offline, syncing joins equal ids
            name=run.path.resolve().name,
            dir=run.path,
            config=to_dict(recipe),
            mode=mode,
            reinit="create_new",  # beside a run of the caller
            settings=wandb.Settings(console="off", silent=True, save_code=False, init_timeout=INIT_TIMEOUT),
        )
        if mode == "offline":
            return (
                logged.id,
                f"offline in {run.path / 'wandb'}; to upload it: wandb sync {run.path}/wandb/offline-run-*",
            )
        return logged.id, logged.url or mode

    def log_epoch(self, result: EpochResult) -> None:
        """Log the metrics of an epoch at its optimizer step."""
        assert self.logged is not None
        self.logged.log({"epoch": result.epoch, **select_numbers(result.metrics)}, step=result.step)

    def log_outcome(self, run: RunDirectory, best: Mapping[str, float]) -> None:
        """Log the best epoch as the summary, report and plots as an artifact."""
        import wandb

        assert self.logged is not None
        self.logged.summary.update({f"best_{name}": value for name, value in best.items()})
        artifact = wandb.Artifact(f"report-{self.logged.id}", type="report")
        for path in list_report_files(run):
            artifact.add_file(str(path), name=path.relative_to(run.path).as_posix())
        self.logged.log_artifact(artifact)

    def close(self, *, failed: bool) -> None:
        """Write and upload what is left."""
        if self.logged is not None:
            self.logged.finish(exit_code=int(failed))
