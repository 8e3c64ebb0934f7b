"""Results of the quadruped's walking controller and of its scripted expert."""

from __future__ import annotations

from scripts.results.formatting import interval, read, source, table


def number(value: float) -> str:
    """Two decimals, and no minus before a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def quadruped_commands() -> str:
    file = read("quadruped_commands")
    rows = []
    for walk in file["constant"]:
        followed, measured = walk["followed"], walk["measured"]
        cells = [f"{number(measured[name])} ({number(followed[name])})" for name in measured]
        rows.append((walk["what"], *cells, walk["gait"] or "-"))
    safe, drawn = file["random"]["safe"], file["random"]["as drawn"]
    errors = safe["rms_error"]
    text = (
        f"{len(rows)} constant commands, {file['seconds'][0]:g} s each from standing, means of the "
        f"last {file['seconds'][0] - file['seconds'][1]:g} s; in brackets what the controller "
        f"follows, which is what was asked where the gait can do it. {file['constant_falls']} "
        "falls."
    )
    after = (
        "All eleven numbers drawn from the whole box every two seconds, one of four gaits, "
        f"episodes of ten seconds: **{safe['falls']} of {safe['episodes']} fall** "
        f"({interval(safe['falls'], safe['episodes'])}) with commands kept inside what the gait "
        f"can do, {drawn['falls']} of {drawn['episodes']} "
        f"({interval(drawn['falls'], drawn['episodes'])}) without. Root mean square errors of the "
        f"means over the last 0.8 s of each command: vx {errors['vx']:.2f}, vy {errors['vy']:.2f} "
        f"m/s, wz {errors['wz']:.2f} rad/s, height {1000 * errors['height']:.0f} mm, pitch "
        f"{errors['pitch']:.2f} rad. A tick of 10 ms takes {file['ms_per_tick']:.2f} ms of one "
        f"core (processor time, load average {file['machine']['load_average']} on "
        f"{file['machine']['cores']} cores): **{file['ours']:.0f}x** real time."
    )
    columns = ["command", "vx", "vy", "wz", "height", "pitch", "gait seen"]
    shown = table(columns, rows, right=range(1, 6))
    return "\n\n".join([text, shown, after, source(file, "quadruped_commands")])


def quadruped_expert() -> str:
    file = read("quadruped_expert")
    rows = []
    for family, row in file["families"].items():
        plain, adverbs = row["plain"], row["adverbs"]
        rows.append(
            (
                family,
                f"{plain['solved']} of {plain['episodes']}",
                plain["steps"],
                plain["quart"],
                f"{adverbs['solved']} of {adverbs['episodes']}",
                adverbs["gait_recognised"],
                ", ".join(f"{n} {word}" for word, n in adverbs["failures"].items()) or "-",
            )
        )
    cost = file["cost"]
    text = (
        f"{file['episodes']} seeds of each family; a step is 0.2 s. A control step takes "
        f"{cost['step_ms']:.1f} ms and a picture of {file['image_size']} px "
        f"{cost['picture_ms']:.1f} ms of processor time (load average "
        f"{file['machine']['load_average']} on {file['machine']['cores']} cores)."
    )
    columns = [
        "family",
        "solved",
        "steps",
        "by QUART's rule",
        "solved with adverbs",
        "gait as asked",
        "failures with adverbs",
    ]
    shown = table(columns, rows, right=(1, 2, 3, 4, 5))
    return "\n\n".join([text, shown, source(file, "quadruped_expert")])


BLOCKS = {"quadruped_commands": quadruped_commands, "quadruped_expert": quadruped_expert}
