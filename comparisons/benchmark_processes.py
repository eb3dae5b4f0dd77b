"""The processes that measure: with this code, or with that of another revision.

The code of a revision is put into a folder of its own, which Python finds before any ``eplstm`` that is installed;
all else that is installed serves it too. It is given this code's cases (``CASES``), so that both do the same.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from .benchmark import Ask, CaseFailed
from .benchmark_timing import Sizes

HERE = Path(__file__).resolve().parent
CASES = ("benchmark_cases.py", "benchmark_timing.py")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""PyTorch and NumPy read these when they are imported."""


@contextmanager
def process(sizes: Sizes, threads: int = 1, code: Path | None = None) -> Iterator[Ask]:
    """A process that measures cases, set up when they are first asked for.

    Args:
        sizes: of the cases.
        threads: of PyTorch and NumPy.
        code: the folder that the package lies in; None: this code.

    Raises:
        RuntimeError: it has ended before its time, or found other code than it was to measure.
    """
    code = code or HERE.parent
    environment = os.environ | dict.fromkeys(THREADS, str(threads))
    if code != HERE.parent:
        environment["PYTHONPATH"] = os.pathsep.join([str(code.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "eplstm.comparisons.benchmark_cases", json.dumps(asdict(sizes))]
    pipe = subprocess.PIPE
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=errors, text=True, start_new_session=True
        ) as run,
    ):
        asked, answers = run.stdin, run.stdout
        assert asked is not None and answers is not None

        def answer() -> dict[str, str]:
            line = answers.readline()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"The process that measures {code} has ended: {errors.read()[-2000:]}")
            return json.loads(line)

        def ask(name: str) -> float:
            print(name, file=asked, flush=True)
            found = answer()
            if "failure" in found:
                raise CaseFailed(found["failure"])
            return float(found["seconds"])

        try:
            found = Path(answer()["code"]).resolve()
            if found != code.resolve():
                raise RuntimeError(f"The code that was to be measured lies in {code}; Python found {found}.")
            yield ask
        finally:
            run.kill()


@contextmanager
def code_of(revision: str) -> Iterator[Path]:
    """A folder with the code of a revision, and this code's cases in it, for the time being.

    Raises:
        ValueError: the code lies in no Git repository, or there is no such revision in it.
    """
    with TemporaryDirectory(prefix="eplstm-") as name:
        archive, package = Path(name, "code.zip"), Path(name, "eplstm")
        parts = ("models", "tasks", "comparisons")
        command = ["git", "-C", str(HERE.parent), "archive", "-o", str(archive), f"{revision}^{{commit}}", *parts]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode:
            raise ValueError(
                f"against: Git does not give the code of {revision!r} ({found.stderr.strip()}). Install eplstm "
                "from a clone with its history (pip install -e .); `git log --oneline` shows the revisions."
            )
        shutil.unpack_archive(archive, package)
        for file in CASES:
            shutil.copy(HERE / file, package / "comparisons" / file)
        (package / "__init__.py").touch()  # a whole package, so that no part comes from anywhere else
        yield package
