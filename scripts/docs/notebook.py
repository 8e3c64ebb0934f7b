"""A notebook as a page of the site: its cells and the outputs of its last execution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def page(path: Path) -> str:
    """The notebook in Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        parts += [shown for output in cell["outputs"] if (shown := _output(output))]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        if output["name"] == "stderr":  # warnings and progress bars
            return ""
        return _fenced("".join(output["text"]))
    data = output.get("data", {})
    if "image/png" in data:
        image = data["image/png"]
        encoded = "".join(image).replace("\n", "")
        return f"![output of the cell above](data:image/png;base64,{encoded})"
    return _fenced("".join(data["text/plain"])) if "text/plain" in data else ""


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
