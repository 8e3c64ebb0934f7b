"""The commands of `vla data` that write datasets.

Each calls one public function, shows its progress and says what came of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vla.cli.shared import (
    Dataset,
    Format,
    KeySettings,
    clear_errors,
    console,
    dataset_keys,
    is_key,
    path_argument,
    path_option,
    print_notes,
    shown_progress,
)
from vla.common.errors import UserError
from vla.common.paths import expanded_path

Out = Annotated[Path, path_argument("Folder of the new dataset.")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        help="`cameras.front=KEY`, `action=[KEY, KEY]`, `control_hz=5`, `kinds.dx=delta`."
    ),
]
Video = Annotated[
    str | None,
    typer.Option(help="Store cameras as videos: h264 or av1; without loss as PNG otherwise."),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Threads that decode and encode; one per core by default.")
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        help="Height and width of all images: `96` or `96x128`. They are stretched to it, as a "
        "policy with that image_size does.",
    ),
]
Chosen = Annotated[
    str | None, typer.Option("--episodes", help="Which episodes: `0:100` or `3,7,10:20`.")
]


def data_convert(
    src: Dataset,
    dst: Out,
    settings: Settings = None,
    format: Format = None,
    episodes: Chosen = None,
    control_hz: Annotated[
        float | None, typer.Option(help="Resample to this rate; see `vla data resample`.")
    ] = None,
    image_size: ImageSize = None,
    video: Video = None,
    jobs: Jobs = None,
) -> None:
    """Writes a dataset of any format in the native one. Interrupted, the same command goes on where
    it stopped.

    Settings say what is read as what (as in `cameras.front=observation/image_0`), or the rate of a
    dataset that holds none (`control_hz=5`).
    """
    with clear_errors(), shown_progress("converting") as progress:
        from vla.data.tools.conversion import convert

        keys, kinds = _keys(settings)
        made = convert(
            src,
            dst,
            format=format,
            keys=keys,
            video=_video(video),
            jobs=jobs,
            episodes=episodes,
            control_hz=control_hz,
            image_size=_image_size(image_size),
            kinds=kinds,
            progress=progress,
        )
    _report(made)


def data_resample(
    src: Dataset,
    dst: Out,
    control_hz: Annotated[float, typer.Option(help="Actions per second of the new dataset.")],
    settings: Settings = None,
    format: Format = None,
    image_size: ImageSize = None,
    video: Video = None,
    jobs: Jobs = None,
) -> None:
    """Writes a dataset at another control rate. Interrupted, the same command goes on where it
    stopped.

    `kinds.NAME=` tells of an action dimension whether it is absolute (a goal; the last of a span
    counts), delta (a displacement; they are summed), velocity (the mean) or command (such as open
    or close; the last). By default all are absolute.
    """
    # converting with a rate: whoever interrupts one may go on with the other
    data_convert(src, dst, settings, format, None, control_hz, image_size, video, jobs)


def data_merge(
    sources: Annotated[
        list[str],
        typer.Argument(help="Dataset folders; `KEY=VALUE` says of all what is read as what."),
    ],
    out: Annotated[Path, path_option("Folder of the new dataset.")],
    format: Format = None,
    video: Video = None,
    jobs: Jobs = None,
) -> None:
    """Writes several datasets of one robot as one. Interrupted, the same command goes on where it
    stopped."""
    with clear_errors(), shown_progress("merging") as progress:
        from vla.data.tools.merging import merge

        # a folder may have an equals sign in its name, too
        settings = [text for text in sources if "=" in text and not Path(text).exists()]
        made = merge(
            [expanded_path(text) for text in sources if text not in settings],
            out,
            format=format,
            keys=dataset_keys(settings),
            video=_video(video),
            jobs=jobs,
            progress=progress,
        )
    _report(made)


def data_split(
    dataset: Dataset,
    out: Annotated[Path, path_argument("Folder in which each part gets a folder of its name.")],
    parts: Annotated[
        list[str],
        typer.Argument(
            help="`train=0.9 val=0.1`, or `train=0:20 val=20:25,30`; `keys.KEY=VALUE` says what is "
            "read as what."
        ),
    ],
    format: Format = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which episodes go where.")] = 0,
    video: Video = None,
    jobs: Jobs = None,
) -> None:
    """Writes the parts of a dataset: by fractions, the same of every task, or by episodes.

    Interrupted, the same command goes on where it stopped.
    """
    with clear_errors(), shown_progress("splitting") as progress:
        from vla.data.tools.splitting import split

        settings = [text for text in parts if _is_setting(text)]
        made = split(
            dataset,
            out,
            _parts([text for text in parts if text not in settings]),
            format=format,
            keys=dataset_keys(settings),
            seed=seed,
            video=_video(video),
            jobs=jobs,
            progress=progress,
        )
    # behind the bar, which is one for all parts
    # what is odd in the source is so in each part
    print_notes(dict.fromkeys(note for part in made.values() for note in part.notes))
    for part in made.values():
        _report(part, notes=False)


def data_filter(
    dataset: Dataset,
    out: Out,
    settings: KeySettings = None,
    format: Format = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Pattern of instructions, as `open*`; may be repeated.")
    ] = None,
    success: Annotated[
        bool | None, typer.Option("--success/--failure", help="Only solved, or only failed ones.")
    ] = None,
    min_return: Annotated[float | None, typer.Option(help="Least sum of rewards.")] = None,
    max_return: Annotated[float | None, typer.Option(help="Greatest sum of rewards.")] = None,
    min_length: Annotated[int | None, typer.Option(help="Fewest steps.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most steps.")] = None,
    episodes: Chosen = None,
    video: Video = None,
    jobs: Jobs = None,
) -> None:
    """Writes the episodes that fit all that is given. Interrupted, the same command goes on where
    it stopped."""
    # names of the fields of `Filter`, which checks the values
    given = {
        "tasks": task or None,
        "success": success,
        "min_return": min_return,
        "max_return": max_return,
        "min_length": min_length,
        "max_length": max_length,
        "episodes": episodes,
    }
    _filter(dataset, out, settings, format, given, video, jobs)


def data_delete(
    dataset: Dataset,
    out: Out,
    episodes: Annotated[str, typer.Option(help="Which episodes go: `0:100` or `3,7,10:20`.")],
    settings: KeySettings = None,
    format: Format = None,
    video: Video = None,
    jobs: Jobs = None,
) -> None:
    """Writes a dataset without some of its episodes; the old one stays as it is."""
    _filter(dataset, out, settings, format, {"drop": episodes}, video, jobs)


def data_label(
    dataset: Dataset,
    out: Out,
    file: Annotated[Path, path_argument("CSV with a header, or JSON lines.")],
    settings: KeySettings = None,
    format: Format = None,
    unlabelled: Annotated[
        str, typer.Option(help="Episodes that the file does not name: keep, drop or refuse.")
    ] = "keep",
    video: Video = None,
    jobs: Jobs = None,
) -> None:
    """Writes a dataset with labels of a file in place of its own.

    Each row names an episode (`episode_index`), perhaps one of its steps (`frame_index`), and any
    of `reward`, `success`, `terminated`, `instruction`.
    """
    with clear_errors(), shown_progress("labelling") as progress:
        from vla.data.tools.labels import label

        # the function's types say so, but what comes from a command line is any text
        if unlabelled not in ("keep", "drop", "refuse"):
            raise UserError(f"--unlabelled {unlabelled}: expected keep, drop or refuse")
        made = label(
            dataset,
            out,
            file,
            format=format,
            keys=dataset_keys(settings),
            unlabelled=unlabelled,  # type: ignore[arg-type]
            video=_video(video),
            jobs=jobs,
            progress=progress,
        )
    _report(made)


def data_score(
    dataset: Dataset,
    out: Out,
    values: Annotated[
        Path | None, path_option("Folder of a training run that learned values.")
    ] = None,
    settings: KeySettings = None,
    reward: Annotated[
        Path | None, path_option("Folder of a reward model, or of its run (`vla reward`).")
    ] = None,
    columns: Annotated[
        bool,
        typer.Option(
            "--columns",
            help="With --reward: write extra columns, and leave the dataset's own rewards and "
            "successes as they are.",
        ),
    ] = False,
    step: Annotated[
        int | None, typer.Option(help="With --values: step of a checkpoint [default: the newest].")
    ] = None,
    format: Format = None,
    video: Video = None,
    jobs: Jobs = None,
) -> None:
    """Writes a dataset with the values and advantages of a run as columns of its steps, or with the
    rewards and successes of a reward model in place of its own.

    `vla data view` draws them, and they can be learned from.
    """
    with clear_errors(), shown_progress("scoring") as progress:
        if (values is None) == (reward is None):
            raise UserError("vla data score: give one of --values RUN and --reward FOLDER")
        options: dict[str, Any] = {
            "format": format,
            "keys": dataset_keys(settings),
            "video": _video(video),
            "jobs": jobs,
            "progress": progress,
        }
        if reward is not None:
            if step is not None:
                raise UserError("--step: is of a run's values; leave it out with --reward")
            from vla.training.reward_learning.reward_columns import write_rewards

            made = write_rewards(reward, dataset, out, columns=columns, **options)
        else:
            if columns:
                raise UserError("--columns: values are columns anyhow; leave it out")
            assert values is not None
            from vla.training.offline_evaluation.value_columns import write_values

            made = write_values(values, dataset, out, step=step, **options)
    _report(made)


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this file to `vla data`."""
    commands: dict[str, tuple[Callable[..., None], str]] = {
        "convert": (
            data_convert,
            "data/bridge_dataset/1.0.0 data/bridge cameras.front=image_0 control_hz=5",
        ),
        "resample": (
            data_resample,
            "data/bridge data/bridge_2hz --control-hz 2.5 kinds.x=delta kinds.y=delta",
        ),
        "merge": (data_merge, "data/monday data/tuesday --out data/week"),
        "split": (data_split, "data/bridge data/bridge_parts train=0.9 val=0.1"),
        "filter": (data_filter, 'data/mt10 data/solved --success --task "open*"'),
        "delete": (data_delete, "data/mt10 data/mt10_clean --episodes 3,17:20"),
        "label": (data_label, "data/mt10 data/mt10_labelled labels.csv --unlabelled refuse"),
        "score": (data_score, "data/mixed data/mixed_scored --reward runs/reward"),
    }
    for name, (function, example) in commands.items():
        app.command(name, epilog=f"Example: `vla data {name} {example}`")(function)


# --- what they share ------------------------------------------------------------------------------


def _filter(
    dataset: Path,
    out: Path,
    settings: list[str] | None,
    format: str | None,
    given: dict[str, Any],
    video: str | None,
    jobs: int | None,
) -> None:
    with clear_errors(), shown_progress("copying") as progress:
        from vla.config import validate
        from vla.data.tools.filtering import Filter, filter_dataset

        # all mistakes at once, before anything is read
        chosen = validate(Filter, given)
        made = filter_dataset(
            dataset,
            out,
            chosen,
            format=format,
            keys=dataset_keys(settings),
            video=_video(video),
            jobs=jobs,
            progress=progress,
        )
    _report(made)


def _keys(settings: list[str] | None) -> tuple[Any, dict[str, Any]]:
    """`key=value` texts as a KeyMap, and the kinds of action dimensions."""
    kinds: dict[str, Any] = {}
    others = []
    for text in settings or []:
        key, equals, value = text.partition("=")
        # how a dimension is resampled is no matter of reading
        if key.startswith("kinds.") and equals:
            kinds[key.removeprefix("kinds.")] = value.strip()
        else:
            others.append(text)
    return dataset_keys(others), kinds


def _video(codec: str | None) -> Any:
    if codec is None:
        return None  # images stay PNG, without loss
    from vla.config import validate
    from vla.data.storage.video import VideoConfig

    return validate(VideoConfig, {"codec": codec})


def _image_size(text: str | None) -> Any:
    if text is None:
        return None
    from vla.types import ImageSize

    try:
        return ImageSize.parse(text)
    except ValueError as error:
        raise UserError(f"--image-size {error}") from None


_PART = re.compile(r"[0-9.:,\s]+")
"""A fraction, or numbers and ranges of episodes."""


def _is_setting(text: str) -> bool:
    """Whether an argument of `split` is no part, but says what is read as what."""
    from vla.data import KeyMap

    if is_key(text):
        return True
    name, _, value = text.partition("=")
    key = name.partition(".")[0]
    # a part may be called as a key is; a rate is the only key whose value looks like a part's
    return key in KeyMap.model_fields and (key == "control_hz" or not _PART.fullmatch(value))


def _parts(texts: list[str]) -> dict[str, Any]:
    """`train=0.9` as a fraction, `val=20:25` or `val=3,5` as episodes."""
    parts: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value or name in parts:
            raise UserError(
                f"{text}: expected NAME=FRACTION or NAME=EPISODES, each name once, "
                "for example train=0.9"
            )
        # 1 is the whole, not the second episode; episodes have no decimal point
        is_fraction = value == "1" or re.fullmatch(r"\d+\.\d*|\.\d+", value)
        parts[name] = float(value) if is_fraction else value
    return parts


def _report(made: Any, *, notes: bool = True) -> None:
    """What was written, and what the user should know of it."""
    if notes:
        print_notes(made.notes)
    # of a run that was interrupted before
    before = f" ({made.resumed} episodes were there)" if made.resumed else ""
    console.print(
        f"{made.episodes} episodes, {made.frames} frames{before}: {made.root}",
        soft_wrap=True,
        highlight=False,
    )
