"""Results on LIBERO."""

from __future__ import annotations

from scripts.results.formatting import of, read, source, table


def libero_experts() -> str:
    """Solved official starts of each task that an expert tries."""
    file = read("libero_experts")
    rows = []
    for row in file["tasks"]:
        steps = "" if row["median_steps"] is None else f"{row['median_steps']:.0f}"
        counts = of(row["solved"], row["episodes"]) if row["episodes"] else "no expert"
        rows.append((row["suite"], row["task"].replace("_", " "), counts, steps))
    what = (
        "Scripted experts on the first official starts of each task, as many as the table says, within the published horizons, "
        f"judged by LIBERO itself; mujoco {file['simulation']['mujoco']}."
    )
    columns = ["suite", "task", "solved (95 % interval)", "median steps"]
    return "\n\n".join([what, table(columns, rows), source(file, "libero_experts")])


def libero_render() -> str:
    """A control step with and without a picture."""
    file = read("libero_render")
    found = file["milliseconds"]
    labels = {
        "without": "no picture",
        "fast": "`preset: fast`",
        "full": "`preset: full`",
        "theirs": "robosuite's own env and renderer",
    }
    rows = [(label, f"{found[name]:.0f}") for name, label in labels.items()]
    what = (
        f"A control step (25 physics steps) of {file['task'].replace('_', ' ')} with one picture of {file['image_size']} px, "
        f"{file['simulation']['gl_renderer']}, beside other work; medians, in turn in one process."
    )
    return "\n\n".join(
        [what, table(["", file["unit"].split(" per ")[0]], rows), source(file, "libero_render")]
    )


BLOCKS = {"libero_experts": libero_experts, "libero_render": libero_render}
