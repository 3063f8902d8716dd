"""See make.py."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.data import make

make.MAKING = True
with tempfile.TemporaryDirectory() as folder:
    make.make_data_dir(Path(folder))
records = {name: raw.decode() for name, raw in make.samples().items()}
make.WIRE.write_text(json.dumps(records, indent=1, ensure_ascii=False))
more = {name: raw.decode() for name, raw in make.more_samples().items()}
make.RECORDS.write_text(json.dumps(more, indent=1))
for path in (make.DATA_DIR, make.WIRE, make.RECORDS):
    print(f"{path.name}: {path.stat().st_size:,} bytes")
