"""A field of the recipe is declared once: one line more, and it is a flag, a key, a column, a label and a parameter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bench

ADDED = '    warmup_steps: int = _choice(7, "steps before the learning rate is whole", metavar="N", ge=0)\n'
LOOK = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path

from bench.config.command_line import build_parser, parse
from bench.config.run import Options
from bench.config.tune import TuneOptions
from bench.reporting.entries import comparisons
from bench.reporting.exports.common import figures, parameters
from bench.reporting.schemas import RUNS_SCHEMA
from bench.spec import DatasetInfo, Job, Measured, Outcome, Recipe, Status
from bench.workflows.record import assemble

Path("preset.yaml").write_text("warmup-steps: 9")
parser = build_parser(Options, "run", "")
now = datetime(2026, 1, 1, tzinfo=UTC)
data = DatasetInfo(name="d", sha256="0" * 64, train_images=9, test_images=9, classes=3)
records = []
for steps in (7, 8):
    recipe = parse(parser, Options, ["--warmup-steps", str(steps)]).recipe(9)
    (run,) = Job(model="m", dataset=data, recipe=recipe).runs()
    records.append(assemble(run, Outcome(run.id, Measured(status=Status.OK, started_at=now, ended_at=now))).record)
print(json.dumps({
    "help": parser.format_help(),
    "tune": "--warmup-steps" in build_parser(TuneOptions, "tune", "").format_help(),
    "preset": parse(parser, Options, ["--experiment", "preset.yaml"]).warmup_steps,
    "column": str(RUNS_SCHEMA.field("warmup_steps").type),
    "labels": [entry.label for entry in comparisons(records)[0].entries],
    "parameter": parameters(records[1])["warmup_steps"],
    "metric": "warmup_steps" in figures(records[1]),
    "ids": len({record.job_id for record in records}),
}))
"""


@pytest.mark.heavy
def test_one_line_adds_a_field_everywhere(tmp_path: Path) -> None:
    copy = tmp_path / "bench"
    shutil.copytree(Path(bench.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    spec = (copy / "spec.py").read_text()
    last = next(
        line for line in spec.splitlines(keepends=True) if line.startswith("    stop_at_target: bool = _choice(")
    )
    (copy / "spec.py").write_text(spec.replace(last, last + ADDED))

    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert "--warmup-steps N" in seen["help"]
    assert "steps before the learning rate is whole (default: 7)" in " ".join(seen["help"].split())
    assert seen["tune"]
    assert seen["preset"] == 9
    assert seen["column"] == "int64"
    assert seen["labels"] == ["m (warmup steps 7)", "m (warmup steps 8)"]
    assert seen["parameter"] == 8
    assert not seen["metric"]
    assert seen["ids"] == 2
