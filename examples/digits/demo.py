"""``python -m examples.digits.demo``: the whole story on a real cluster. Exits 0 only if it came true."""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console

from modelramp.api.spec import Spec

from . import report, stage
from .answers import Tail
from .display import display
from .figures import shortened
from .kube import Unready, documents
from .names import NAMESPACE, OBJECT
from .story import Story
from .watch import StoryBroken, Watcher, World

ANSWERS, REPORT, RESULT = (stage.OUTCOME / name for name in ("answers.jsonl", "report.html", "result.json"))
INTERRUPTED = 130
GOES_ON = "The cluster is left as it is: see it with hack/cluster/cluster.py, remove it with `make cluster-down`."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=280, help="requests per second (%(default)s)")
    arguments = parser.parse_args()
    console, begun = Console(), time.monotonic()
    try:
        ready = stage.prepare(lambda line: console.print(f"[dim]{time.monotonic() - begun:4.0f} s[/dim]  {line}"))
        held = tell(console, ready, arguments.rate)
    except KeyboardInterrupt:
        console.print(f"\nStopped. {GOES_ON}")
        return INTERRUPTED
    except (stage.StageFailed, Unready) as failure:
        console.print(f"The stage could not be set: {failure}", style="red", markup=False)
        return 1
    console.print(f"{time.monotonic() - begun:.0f} s in all. {GOES_ON}")
    return 0 if held else 1


def tell(console: Console, ready: stage.Stage, rate: float) -> bool:
    """The story from the first version to the last; whether it held."""
    world = World()
    ANSWERS.unlink(missing_ok=True)
    (wanted,) = documents(stage.HERE / "modeldeployment.yaml")
    spec = Spec.model_validate(wanted["spec"])
    watcher = Watcher(ready.kube, NAMESPACE, OBJECT, world)
    with display(console, world, shortened(spec)) as shown:
        story = Story(spec, world, ready.alias, shown.say)
        watcher.start(Tail(ANSWERS))
        try:
            act(story, ready, rate)
        except StoryBroken as broken:
            story.claim(str(broken), False)
        finally:
            watcher.stop()
        story.finish()
    outcome = report.Outcome(story, world, shortened(spec))
    RESULT.write_text(outcome.json())
    REPORT.write_text(outcome.html())
    console.print(f"\n{outcome.words()}\n\nReport: {REPORT}", highlight=False, markup=False, soft_wrap=True)
    return story.held


def act(story: Story, ready: stage.Stage, rate: float) -> None:
    """Raises StoryBroken, stage.StageFailed, Unready."""
    story.say("Act 1: the alias names version 1, a fair model: the first to serve")
    story.move(1)
    ready.apply_object()
    story.serve_first()
    with stage.traffic(ready.service(), ANSWERS, rate):
        story.await_clients(rate)
        story.promote_second()
        story.catch_third()
        story.stop_fourth()


if __name__ == "__main__":
    sys.exit(main())
