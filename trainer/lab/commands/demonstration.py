"""The command that shows in two minutes where tunnels are worth it and where they are not."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.lab.commands.options import Workers
from trainer.lab.commands.surroundings import clear_words, err, make_folder, out, pool_client, say


def demo(
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for reports and plots.")] = Path("runs/demo"),
    workers: Workers = 1,
) -> None:
    """Show a task where tunnels are worth it beside one where they are not, in about two minutes.

    \b
    Example:
      gdsolver demo
    """
    with clear_words():
        # Loaded here: torch takes seconds, and the other commands do without it.
        from trainer.lab import experiment as lab  # noqa: PLC0415
        from trainer.lab.demo import SCENES, verdict  # noqa: PLC0415
        from trainer.lab.report import summarise, table  # noqa: PLC0415

        make_folder(out_dir)
        said = []
        with pool_client(None, None, local=True, workers=workers, folder=out_dir, needed=True) as client:
            for scene in SCENES:
                plan, name = scene.experiment, scene.experiment.request.name
                runs = lab.run_all(plan, client, err)
                lab.write_down(runs, {"command": "demo", "task": name}, out_dir / name, None)
                if runs[-1].interrupted:
                    raise typer.Exit(130)
                found = summarise(runs)
                out.print(table(found, f"{name}, {scene.what}: {runs[0].metric}, {len(plan.seeds)} seeds"))
                said.append(verdict(scene, found))
                out.print(f"{said[-1]}\n")
        names = " and ".join(str(out_dir / scene.experiment.request.name / "metric.png") for scene in SCENES)
        say(f"plots: {names}; beside them report.json and timeline.png")
