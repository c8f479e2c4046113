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
