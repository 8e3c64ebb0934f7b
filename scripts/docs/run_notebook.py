"""Executes the notebooks of docs/ and keeps their outputs: `make notebook`."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

from scripts.docs.source import ROOT


def execute(notebook: Any, *, timeout: int = 600) -> None:
    """Fills in the outputs of a notebook. Raises CellExecutionError if a cell fails."""
    # threads that wait actively make a small network ten times slower on a busy machine
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        # of an empty folder, so that nothing of the checkout is found or written by accident
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=timeout, resources=resources)
        client.execute(env=environment)


def _kept(output: Any) -> Any | None:
    """An output without warnings (they hold paths of the machine) and HTML of printed lines."""
    if output.output_type == "stream":
        return None if output.name == "stderr" else output
    output.data.pop("text/html", None)
    text = output.data.get("text/plain", "")
    if "site-packages" in text:  # a warning with a path
        return None
    return output if text.strip() or "image/png" in output.data else None


def main() -> None:
    for path in sorted((ROOT / "docs").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times, which would differ at every run
            if cell.cell_type == "code":
                cell.outputs = [kept for output in cell.outputs if (kept := _kept(output))]
        nbformat.write(notebook, path)
        print("executed", path.relative_to(ROOT))


if __name__ == "__main__":
    main()
