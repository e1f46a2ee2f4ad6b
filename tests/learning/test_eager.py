"""The compiler is not imported by training, and is there when something compiles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CODE = """
import sys
from bench.learning import datasets
from bench.learning.context import LocalContext
from bench.learning.execute import Inputs, execute
from bench.learning.models import MODELS
from bench.learning.weights import find
from bench.spec import Job, Recipe, Status

data = datasets.load("synthetic")
weights = find("bundled", "mobilenet", MODELS["mobilenet"].sources)
for model, own in (("cnn", None), ("mobilenet", weights)):
    (run,) = Job(model=model, dataset=data.info, recipe=Recipe(epochs=1)).runs()
    record = execute(run, Inputs(data, own), LocalContext()).record
    assert record.status is Status.OK, record.reason
assert not [name for name in sys.modules if name.startswith("torch._dynamo.")], "the compiler was imported"

import torch

linear = torch.nn.Linear(2, 2)
compiled = torch.compile(linear, backend="eager")
images = torch.ones(3, 2)
assert torch.equal(compiled(images), linear(images))
optimizer = torch.optim.Adam(linear.parameters())
compiled(images).sum().backward()
optimizer.step()
import torch._dynamo.utils

assert "torch._dynamo.utils" in sys.modules
"""


def test_training_does_not_import_the_compiler_and_compiling_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
