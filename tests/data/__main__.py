"""See make.py."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from pathlib import Path

from tests.data import make

os.environ["RNB_MAKES_SAMPLES"] = "1"
with tempfile.TemporaryDirectory() as folder:
    make.make_data_dir(Path(folder))
for path, samples in ((make.WIRE, make.samples()), (make.RECORDS, make.more_samples())):
    path.write_text(json.dumps({name: base64.b64encode(raw).decode() for name, raw in samples.items()}, indent=1))
for path in (make.DATA_DIR, make.WIRE, make.RECORDS):
    print(f"{path.name}: {path.stat().st_size:,} bytes")
