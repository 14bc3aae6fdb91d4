"""Run the commands of the demo in one process, so that torch and its libraries are imported once."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from avatar_bench.cli.app import main

RUNS = Path("runs/demo")
RUN = RUNS / "efficientnet_lite0"
SHOWN = ("real/adminlte", "drawing/langflow", "generated/invokeai")  # of each, four images are predicted


def run(command: str, *paths: str) -> None:
    """Run a command line of avatar_bench, and paths after it; exit with its code unless it succeeds."""
    if code := main([*command.split(), *paths]):
        sys.exit(code)


def describe_recalls(file: Path) -> str:
    """Return the balanced accuracy and the recall of each class in a metrics.json of blind_test."""
    metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
    named = {name.partition("/")[2]: each for name, each in metrics.items() if name.startswith("recall/")}
    told = ", ".join(f"{name} {each['value']:.2f} (n = {each['n']})" for name, each in named.items())
    return f"  {file.parents[3]}: balanced accuracy {metrics['balanced_accuracy']['value']:.3f}; recall: {told}"


def demonstrate() -> None:
    """Build the data, train, evaluate, compare, report and predict; print where to look."""
    run("prepare data=demo")
    if (RUNS / "run.json").exists():  # the demo of earlier versions was a single run
        RUNS.rename(f"{RUNS}_of_one_run_{int(time.time())}")
    run(f"train -m model=efficientnet_lite0,efficientnet_lite1,mobilenetv2 mode=probe data=demo out={RUNS}")
    evaluate = f"evaluate ckpt={RUNS} split"
    run(f"{evaluate}=test block=[blind_test,overview,significance]")
    with redirect_stdout(StringIO()) as printed:  # shown at the end
        run(f"{evaluate}=blind block=[blind_test,out_of_domain]")
    few = " ".join(f"block.gradcam.{word}" for word in ("images=12", "collage=3", "steps=5", "random_weights=1"))
    blocks = "blind_test,calibration,overview,significance,ensemble,gradcam"
    run(f"{evaluate}=blind block=[{blocks}] {few}")  # and the first of them for the ensembles
    run(f"report runs={RUNS} out={RUNS}/report.html")
    data = Path(json.loads((RUN / "run.json").read_text(encoding="utf-8"))["data"]["root"])
    images = [str(file) for name in SHOWN for file in sorted((data / "images" / name).glob("*.jpg"))[:4]]
    run(f"predict ckpt={RUN} output={RUNS}/predictions.csv", *images)
    accuracies = re.findall(rf"({RUNS}/[^:]*)/evaluation/blind/blind_test: (accuracy.*)", printed.getvalue())
    recalls = map(describe_recalls, sorted(RUNS.glob("*/evaluation/blind/blind_test/metrics.json")))
    print(
        END.format(
            accuracies="\n".join(f"  {name}: {accuracy}" for name, accuracy in accuracies),
            recalls="\n".join(recalls),
            data=data,
            runs=RUNS,
            run=RUN,
        )
    )


END = """
External test ("blind"), on images that share no repository, author or generator with those of training:
{accuracies}
{recalls}

Before you quote these numbers:
- More than half of these images are drawings, the easiest class; look at the recall of each class.
- "real", "drawing" and "generated" mean: looks like the images of that class in the training data. A prediction is no
  proof of where an image comes from, and "real" does not say that the person exists.
- They were measured on eleven sources; the intervals are for new ones. On images of yours, measure them again.

Where to look:
  {runs}/report.html        everything on one page: open it in a browser
  {runs}/predictions.csv    predictions for single images
  {data}/card.html          the data card: what the images are and what they give away

Ask more of it, in some minutes (corruptions, Grad-CAM, slices, speed ...), then write the report again:
  .venv/bin/avatar-bench evaluate ckpt={runs} block=all split=blind
Try it on your own: .venv/bin/avatar-bench predict ckpt={run} input=FOLDER output=predictions.csv"""

if __name__ == "__main__":
    demonstrate()
