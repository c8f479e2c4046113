"""Draws the README's picture: `python docs/picture.py RUN DATA`, both as `make report` leaves them.

One test image of each class, in the middle of its class by IoU: neither the best nor the worst."""
import sys
from pathlib import Path

from frcnn_nbdev.runs.compare import read_finished
from frcnn_nbdev.evaluation import top_detections
from frcnn_nbdev.labels import read_image
from frcnn_nbdev.plots import plot_detections


def main(run: Path, data: Path) -> None:
    finished = read_finished(run)
    truth = finished.truth[finished.truth["split"] == "test"]
    top = top_detections(truth, finished.predictions).sort_values("iou")
    names = [rows["name"].iloc[len(rows) // 2] for _, rows in top.groupby("gt_class")]
    images = {name: read_image(data / name, root=data) for name in names}
    figure = plot_detections(images, truth, finished.predictions, names, titles=[""] * len(names), top_only=True, columns=2, cell=4.4)
    figure.savefig(Path(__file__).parent / "static" / "detections.png", dpi=110)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
