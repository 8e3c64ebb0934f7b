"""Results of speed, of damaged and killed data, and of statistics."""

from __future__ import annotations

from typing import Any

from scripts.results.formatting import mean, of_recorded, ratio_range, read, source, table


def control_step() -> str:
    file = read("control_step")
    ours, theirs = file["ours_seconds"], file["theirs_seconds"]
    rows = [
        ("remembered frames, one new one", f"{1000 * ours['median']:.0f} ms"),
        ("the window encoded again", f"{1000 * theirs['median']:.0f} ms"),
    ]
    text = (
        f"One control step of the official RT-1 ({file['parameters'] / 1e6:.0f}M parameters, 300 "
        f"px, 6 frames): "
        f"**{file['ratio']:.1f}x** faster ({ratio_range(ours, theirs)} between quartiles); logits "
        f"differ by at most "
        f"{file['greatest_logit_difference']:.1g}."
    )
    return "\n\n".join([text, table(["", "median"], rows), source(file, "control_step")])


def export() -> str:
    file = read("export")
    sides = ("eager", "program", "float32", "int8")
    rows = []
    for case in file["cases"]:
        cells = [
            f"{1000 * case['seconds'][side]['median']:.1f} ms ({case['times_faster'][side]:.1f}x)"
            for side in sides
        ]
        rows.append((f"{case['title']} ({case['parameters'] / 1e6:.1f}M)", *cells))
    clock = "processor time" if file["clock"] == "cpu" else "wall clock"
    differences = [
        case["agreement"]["float32"]["largest_logit_difference"] for case in file["cases"]
    ]
    text = (
        f"One control step of RT-1 for one robot, {clock} of {file['threads']} thread, medians; a "
        "new frame, all past ones remembered. At the tabletop's sizes with one frame ONNX Runtime "
        f"is **{file['ratio']:.1f}x** as fast as the policy. In float32 logits differ by at most "
        f"{max(differences):.1g}. Measured at a load average of {file['machine']['load_average']} "
        f"on {file['machine']['cores']} cores."
    )
    columns = ["", "the policy", "torch.export", "ONNX Runtime", "ONNX Runtime, int8"]
    return "\n\n".join([text, table(columns, rows), source(file, "export")])


def rt1_peer() -> str:
    file = read("rt1_peer")
    rows = [
        (
            "forward" if case["case"] == "forward" else "training step",
            case["batch"],
            f"{case['ours']['median']:.2f} s",
            f"{case['theirs']['median']:.2f} s",
            f"**{case['ratio']:.1f}x** ({ratio_range(case['ours'], case['theirs'])})",
        )
        for case in file["cases"]
    ]
    text = (
        "The official RT-1 against `robotic-transformer-pytorch` 0.2.3 in the configuration of its "
        "README, 6 frames of 224 px. The "
        "two have different trunks; `benchmarks/README.md` says what is compared."
    )
    columns = ["", "batch", "ours", "theirs", "faster (between quartiles)"]
    return "\n\n".join([text, table(columns, rows), source(file, "rt1_peer")])


def doctor() -> str:
    file = read("doctor")
    faults = [row for row in file["rows"] if row["check"]]
    text = (
        f"**{file['ours']:.0f} of {len(faults)}** planted faults are found by the check that is for "
        f"them, with {file['false_alarms']} false alarms in {file['healthy']} examinations of "
        "healthy policies."
    )
    rows = [
        (row["case"], f"`{row['check']}`", "found" if row["found"] else "missed") for row in faults
    ]
    columns = ["planted", "check", ""]
    return "\n\n".join([text, table(columns, rows), source(file, "doctor")])


def render() -> str:
    file = read("render")
    seconds = file["seconds_per_round"]
    rows = [
        ("Meta-World, preset `fast`", f"{file['ours']:.0f}"),
        ("Meta-World, its own rendering", f"{file['theirs']:.0f}"),
        ("tabletop", f"{file['tabletop']:.0f}"),
    ]
    text = (
        f"Env steps with a {file['image_size']} px image. The preset `fast` is "
        f"**{file['ratio']:.1f}x** Meta-World's own rendering "
        f"({ratio_range(seconds['fast'], seconds['theirs'])} between quartiles); a step of the "
        f"tabletop is "
        f"**{file['tabletop_times_fast']:.1f}x** cheaper than one of Meta-World's preset `fast`."
    )
    return "\n\n".join([text, table(["", "steps per second"], rows), source(file, "render")])


def eval_peer() -> str:
    rows = []
    for name, looks in (("eval_peer", "every second step"), ("eval_peer_replan1", "every step")):
        file = read(name)
        for case in file["cases"]:
            rows.append(
                (
                    case["case"],
                    looks,
                    f"{case['seconds']['median']:.1f} s",
                    f"{file['lerobot']['seconds']['median']:.1f} s",
                    f"**{case['ratio']:.1f}x** "
                    f"({ratio_range(case['seconds'], file['lerobot']['seconds'])})",
                )
            )
    file = read("eval_peer")
    text = (
        "Evaluation of the same network on the same Meta-World task against lerobot 0.4.4, "
        "episodes of 100 steps. Most of the first "
        "ratio is cheaper pictures; at lerobot's own render settings the machinery alone remains."
    )
    columns = [
        "ours",
        "the network looks at",
        "ours takes",
        "lerobot takes",
        "faster (between quartiles)",
    ]
    note = "The rows with every step: `--episodes 16 --replan 1`."
    return "\n\n".join(
        [text, table(columns, rows), source(file, "eval_peer", "eval_peer_replan1", note=note)]
    )


def loader_peer() -> str:
    file = read("loader_peer")
    rows = []
    for case in file["cases"]:
        sides, ratios = case["sides"], case["ratio"]
        rows.append(
            (
                f"{case['dataset']}, {case['workers']} workers",
                f"{sides['lerobot']['samples_per_second']:,.0f}",
                f"{sides['float32, ram']['samples_per_second']:,.0f} "
                f"({ratios['float32, ram']:.1f}x)",
                f"{sides['uint8, ram']['samples_per_second']:,.0f} ({ratios['uint8, ram']:.0f}x)",
                f"{sides['uint8, ram']['held_mib']:.0f} / {sides['lerobot']['held_mib']:.0f}",
            )
        )
    text = (
        f"Shuffled histories of {file['history']} frames of {file['size']} px and {file['chunk']} "
        f"actions against lerobot "
        f"{file['lerobot']} on the same files, samples per second. lerobot's batches are float32; "
        f"ours are uint8 unless asked for "
        "float32, and stay uint8 until they are on the device."
    )
    columns = ["", "lerobot", "ours, float32", "ours, uint8", "MiB held, ours (uint8) / lerobot"]
    return "\n\n".join([text, table(columns, rows), source(file, "loader_peer")])


def streaming() -> str:
    file = read("streaming")
    batches = file["batches_per_s"]
    seconds = file["seconds"]["train"]
    text = (
        f"RT-1 (EfficientNet-B0) trained on frames that are streamed with {file['budget_mib']} MiB "
        f"of memory for them, against all "
        f"{file['decoded_mib']} MiB in memory: **{file['ratio']:.2f}x** the training steps per "
        f"second "
        f"({ratio_range(seconds['stream'], seconds['ram'])} between quartiles). Batches alone: "
        f"{batches['stream']:.0f} "
        f"against {batches['ram']:,.0f} per second."
    )
    return "\n\n".join([text, source(file, "streaming")])


def picture_size() -> str:
    file = read("picture_size")
    names = {"tight": "stream, memory for a quarter", "whole": "stream, whole frames"}
    rows = []
    for side, values in file["sides"].items():
        speeds = file["frames_per_s"][side]
        build = f"{values['build_seconds']:.0f} s" if side in ("ram", "disk") else "-"
        rows.append(
            (
                names.get(side, side),
                f"{values['bytes'] / 2**20:,.0f} MiB",
                build,
                f"{speeds['loader']:,.0f}",
                f"{speeds['train']:,.0f}",
            )
        )
    height, width = file["stored"]
    seen_height, seen_width = file["seen"]
    text = (
        f"A small RT-1 that sees {seen_height}x{seen_width}, trained on {file['frames']:,} frames "
        f"of {height}x{width} video with a history of one step: held at the size that is seen they "
        f"take **1/{file['cache_ratio']:.0f}** of the room. Frames per second; a stream keeps a set "
        "that fits its memory, and decodes any other once per epoch."
    )
    columns = ["`cache`", "all frames", "build", "loader alone", "training"]
    return "\n\n".join([text, table(columns, rows), source(file, "picture_size")])


def busy_machine() -> str:
    file = read("busy_machine")
    cells: dict[tuple[str, int], dict[str, Any]] = {}
    for case in file["cases"]:
        cells.setdefault((case["work"], case["spinners"]), {})[case["side"]] = case
    rows = []
    for (work, spinners), sides in cells.items():
        speeds = [f"{side['median']:.3g}" for side in sides.values()]
        times = [f"{side['times_default']:.2f}" for side in list(sides.values())[1:]]
        rounds = min(side["rounds"] for side in sides.values())
        unit = sides["default"]["unit"]
        rows.append((work, spinners, unit, *speeds, *times, rounds))
    text = (
        f"What the command sets before torch is loaded, on {file['threads']} threads beside "
        "processes that compute without end: nothing (default), `GOMP_SPINCOUNT=10000` (spin "
        "count), or `OMP_WAIT_POLICY=PASSIVE` (passive), which it takes where the load at its "
        "start is above the cores."
    )
    columns = ["work", "beside", "unit", "default", "spin count", "passive"]
    columns += ["spin count, times", "passive, times", "rounds"]
    return "\n\n".join([text, table(columns, rows), source(file, "busy_machine")])


def train_cpu() -> str:
    file = read("train_cpu")
    rows = [
        (
            case["objective"].upper(),
            case["side"],
            f"{case['ms']:.0f}",
            f"{case['ratio']:.2f}x",
            f"{case['peak_share']:.0%}",
        )
        for case in file["cases"]
    ]
    text = (
        f"A training step of the demo's RT-1 (64 windows, {file['threads']} threads of "
        f"{file['machine']['cpu']}), all sides in turns, medians. The peak is that of a large "
        f"float32 product in the same process, {file['peak_float32_gflops']:.0f} GFLOP/s. `bf16` "
        "keeps attention in float32, as `precision: bf16` does; `auto` chooses it on CPUs that "
        "multiply bfloat16 numbers."
    )
    head = ["objective", "side", "ms", "times float32", "share of the float32 peak"]
    return "\n\n".join([text, table(head, rows), source(file, "train_cpu")])


def vlm_decoding() -> str:
    file = read("vlm_decoding")
    ours, theirs = file["ours_seconds"], file["theirs_seconds"]
    text = (
        f"A chunk of {file['chunk']} actions ({file['tokens']} tokens) of a VLM of "
        f"{file['parameters'] / 1e6:.0f}M parameters with "
        f"random weights, one thread: empty slots in one pass {1000 * ours['median']:.0f} ms, "
        f"token by token "
        f"{1000 * theirs['median']:.0f} ms, **{file['ratio']:.1f}x** ({ratio_range(ours, theirs)} "
        f"between quartiles)."
    )
    return "\n\n".join([text, source(file, "vlm_decoding")])


def data_fuzz() -> str:
    file = read("data_fuzz")
    outcomes = file["outcomes"]
    bad = sum(outcomes[name] for name in ("MISSED", "UNNAMED", "SILENT", "TRACEBACK"))
    total = sum(outcomes.values())
    rows = [
        (name, outcomes[name]) for name in ("refused", "found", "warned", "harmless", "plausible")
    ]
    text = (
        f"{total:,} random corruptions of small datasets of {len(file['datasets'])} kinds (bytes, "
        f"truncations, lost and swapped "
        "files, edited metadata): none passes unseen or ends in a library's exception."
    )
    return "\n\n".join(
        [
            text,
            table(["outcome", "corruptions"], [*rows, ("**bad**", bad)]),
            source(file, "data_fuzz"),
        ]
    )


def attack() -> str:
    file = read("attack")
    bad = ("silent", "traceback", "code", "outside", "hang", "memory")
    rows = []
    for name, kind in file["kinds"].items():
        ended = kind["refused"] + kind["warned"] + kind["same"]
        most = (f"{kind['most_seconds']:.1f} s", f"{kind['most_mib']} MiB")
        rows.append((name, kind["inputs"], ended, *[kind[key] for key in bad], *most))
    wrong = sum(file["outcomes"][key] for key in bad)
    text = (
        f"{file['inputs']:,} hostile inputs of {len(file['kinds'])} kinds, each read in a process "
        f"that is watched: **{wrong}** did not end in a sentence or with what was right. Seconds "
        "are of processor time, memory is beside what the libraries take; 10 s and 1.5 GiB are "
        "allowed."
    )
    columns = ["kind", "inputs", "well", *bad, "most time", "most memory"]
    return "\n\n".join([text, table(columns, rows), source(file, "attack")])


def kill_soak() -> str:
    file = read("kill_soak")
    rows = [
        (name, kind["kills"], f"{min(kind['kept'])} to {max(kind['kept'])}", kind["ended"])
        for name, kind in file["kinds"].items()
    ]
    kills = sum(kind["kills"] for kind in file["kinds"].values())
    text = (
        f"Recording, decoding and whole commands are killed {kills} times (SIGKILL) at random "
        "moments; the same command then goes on. Kills that lost something completed: "
        f"**{file['ours']}**. Commands that came to their end left the files of an undisturbed run."
    )
    columns = ["work", "kills", "units finished at the kills", "runs that ended"]
    return "\n\n".join([text, table(columns, rows), source(file, "kill_soak")])


def collisions() -> str:
    file = read("collisions")
    names = list(dict.fromkeys([*file["first"], *file["second"]]))
    rows = [
        (f"`{name}`", file["first"].get(name, 0), file["second"].get(name, 0)) for name in names
    ]
    text = (
        f"{file['pairs']} pairs of commands on one folder: the first is stopped at a random moment, "
        "the second is run, and the first goes on. Pairs in which the second was not refused at "
        f"once, or the first left other files than undisturbed: **{file['ours']:.0f}**."
    )
    columns = ["command", "was first", "came second"]
    return "\n\n".join([text, table(columns, rows), source(file, "collisions")])


def killed_evaluation() -> str:
    file = read("killed_evaluation")
    ended, undisturbed = file["wall_seconds"]
    same = "the same" if not file["differing"] else f"all but {len(file['differing'])} the same"
    text = (
        f"An evaluation of {file['episodes']} episodes, killed (SIGKILL) {len(file['kills'])} times at "
        f"random moments and resumed, beside one that was not: {file['files']} files, **{same}** but "
        f"for what tells the time. Seconds of evaluation {file['ours']:.0f} against "
        f"{file['theirs']:.0f} ({file['ours'] / file['theirs'] - 1:+.1%}); by the wall clock, in which "
        f"every process imports the package and starts its workers, {ended:.0f} against "
        f"{undisturbed:.0f} ({ended / undisturbed - 1:+.1%})."
    )
    return "\n\n".join([text, source(file, "killed_evaluation")])


def openpi_interop() -> str:
    file = read("openpi_interop")
    client = ", ".join(f"{name} {version}" for name, version in file["client"].items())
    text = (
        f"Episodes of the tabletop played by openpi's unmodified client ({client}) through `vla serve` with "
        f"`max_batch=1`, whose actions equal those of `vla eval` to the bit: **{file['ours']} of "
        f"{file['episodes']}** ({file['policy']})."
    )
    return "\n\n".join([text, source(file, "openpi_interop")])


def long_run() -> str:
    file = read("long_run")
    rows = []
    for name, found in file["kinds"].items():
        low, high = found["interval"]
        rows.append(
            (
                name,
                f"{found['units']:,}",
                f"{found['kib_per_1000']:.1f} ({low:.1f} to {high:.1f})",
                "{} to {}".format(*found["descriptors"]),
                "{} to {}".format(*found["temporary_files"]),
            )
        )
    same = "the same" if file["equal"] else "not the same"
    text = (
        "Growth of one process, behind its first tenth: slope of a least-squares line through the "
        "resident memory, with a 95 % bootstrap interval over blocks. The weights of "
        f"{file['thread_steps']} steps with {', '.join(file['threads'])} threads are {same}, bit "
        "for bit."
    )
    columns = ["", "steps or episodes", "KiB per 1,000", "descriptors", "temporary files"]
    return "\n\n".join([text, table(columns, rows), source(file, "long_run")])


def coverage() -> str:
    file = read("coverage")
    rows = [
        (row["interval"], row["n"], f"{100 * row['mean']:.1f} %", f"{100 * row['min']:.1f} %")
        for row in file["binomial_coverage"]
    ]
    alarms = file["false_alarms"]
    sequential = max(row["sequential"] for row in alarms)
    repeated = [row["mcnemar_repeated"] for row in alarms]
    text = (
        f"What 95 % intervals of success rates cover, and false alarms of a comparison that is "
        f"looked at after each of 1,000 pairs: "
        f"at most **{100 * max(sequential, file['ours']):.1f} %** by the sequential test of `vla "
        f"eval ab`, "
        f"{100 * mean(repeated):.0f} % on average by McNemar's test repeated."
    )
    columns = ["interval", "episodes", "mean coverage over rates", "least"]
    return "\n\n".join([text, table(columns, rows), source(file, "coverage")])


def coverage_trainings() -> str:
    file = read("coverage_trainings")
    names = {
        "trainings and starts": "`vla compare A=... B=...`",
        "t of rates": "t of one rate per training",
        "mcnemar of one training": "McNemar, one training each",
        "mcnemar of all": "McNemar, all trainings' starts as one sample",
    }
    rows = []
    for row in file["false_alarms"]:
        kind = "pairs" if row["paired"] else "each"
        shown = [f"{100 * row[name]:.1f} %" for name in names]
        rows.append((f"{row['trainings']} {kind}", row["between"], *shown))
    held = [row[name] for row in file["coverage"] for name in ("rate", "difference")]
    text = (
        f"Two equal methods, {file['starts']} starts, {file['repeats']:,} simulated comparisons of "
        "each row: how often a difference is found at 5 %. Trainings differ by so much in "
        f"log-odds. The 95 % intervals of rates and differences cover {100 * min(held):.1f} to "
        f"{100 * max(held):.1f} %."
    )
    columns = ["trainings", "deviation between trainings", *names.values()]
    return "\n\n".join([text, table(columns, rows), source(file, "coverage_trainings")])


BLOCKS = {
    "control_step": control_step,
    "export": export,
    "rt1_peer": rt1_peer,
    "eval_peer": eval_peer,
    "loader_peer": loader_peer,
    "streaming": streaming,
    "picture_size": picture_size,
    "busy_machine": busy_machine,
    "train_cpu": train_cpu,
    "vlm_decoding": vlm_decoding,
    "render": render,
    "doctor": doctor,
    "two_processes": lambda: of_recorded("two_processes"),
    "data_fuzz": data_fuzz,
    "attack": attack,
    "kill_soak": kill_soak,
    "killed_evaluation": killed_evaluation,
    "openpi_interop": openpi_interop,
    "collisions": collisions,
    "long_run": long_run,
    "coverage": coverage,
    "coverage_trainings": coverage_trainings,
}
