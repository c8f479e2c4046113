"What the tests share: where real data is, if it is."
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real() -> Path:
    "Folder of real data beside the checkout, or FRCNN_REAL; tests that need it are skipped without."
    folder = Path(os.environ.get("FRCNN_REAL", Path(__file__).resolve().parents[2] / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip("no real data beside the checkout (FRCNN_REAL names another place)")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    "A finished run of the training report, small and with torchvision's detector beside it; shared by all tests."
    from frcnn_nbdev import reports
    params = dict(phantom_train=24, epochs=2, image_size=96, batch_size=4, rois=16, validate_every=1, baseline=True)
    return reports.run_report("train", params, tmp_path_factory.mktemp("runs") / "tiny", progress=False)
