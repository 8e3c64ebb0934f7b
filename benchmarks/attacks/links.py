"""Files that lead out of what was named: links, paths, and HDF5's ways into other files."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from attacks._case import Case, secret
from attacks._datasets import fresh, reading, run_command, warm_all

COUNT = 100


def warm() -> None:
    warm_all("folder", "LeRobot v2.1", "robomimic", "Minari")


def case(rng: random.Random, folder: Path) -> Case:
    make = rng.choice([_of_hdf5, _of_hdf5, _of_minari, _of_files, _of_templates, _of_pairs, _film])
    return make(rng, folder)


def _of_hdf5(rng: random.Random, folder: Path) -> Case:
    """A dataset whose numbers or texts lie in another file."""
    import h5py

    root = fresh("robomimic", folder)
    way = rng.choice(["external", "link", "virtual"])
    what = rng.choice(["lang", "mask", "rewards", "obs/robot0_eef_pos", "success"])
    with h5py.File(root, "a") as file:
        group = file if what == "mask" else file["data/demo_0"]
        name = "mask/train" if what == "mask" else what
        _lead_out(group, name, way, secret(folder), folder)
    keys = {
        "mask": ["split=train"],
        "lang": ["instruction=lang"],
        "success": ["success=success"],
    }
    reads = reading(rng.choice(["info", "stats", "validate"]), root, folder, *keys.get(what, []))
    return Case(f"robomimic: {what} by {way}", reads)


def _lead_out(group: Any, name: str, way: str, target: Path, folder: Path) -> None:
    import h5py

    if name in group:
        del group[name]
    kind = "S60" if name in ("lang", "mask/train") else "u1"
    if way == "external":
        group.create_dataset(name, (1,), kind, external=[(str(target), 0, 60)])
        return
    other = folder / "other.hdf5"
    with h5py.File(other, "w") as file:
        file.create_dataset("x", data=target.read_bytes()[:60], dtype="S60")
    if way == "link":
        group[name] = h5py.ExternalLink(str(other), "x")
        return
    layout = h5py.VirtualLayout(shape=(1,), dtype="S60")
    layout[0] = h5py.VirtualSource(str(other), "x", shape=())
    group.create_virtual_dataset(name, layout)


def _of_minari(rng: random.Random, folder: Path) -> Case:
    import h5py

    root = fresh("Minari", folder)
    way = rng.choice(["external", "link", "virtual"])
    what = rng.choice(["lang", "infos/success", "rewards"])
    with h5py.File(root / "data/main_data.hdf5", "a") as file:
        group = file["episode_0"]
        _lead_out(group, what, way, secret(folder), folder)
    keys = {"lang": ["instruction=lang"], "infos/success": ["success=infos/success"]}
    reads = reading(rng.choice(["info", "validate"]), root, folder, *keys.get(what, []))
    return Case(f"Minari: {what} by {way}", reads)


def _of_files(rng: random.Random, folder: Path) -> Case:
    """A file of the dataset is a link to a file outside."""
    name = rng.choice(["folder", "LeRobot v2.1", "native, images"])
    root = fresh(name, folder)
    files = sorted(
        path for path in root.rglob("*") if path.is_file() and ".cache" not in path.parts
    )
    file = rng.choice(files)
    kept = folder / "outside"
    os.replace(file, kept)
    target = rng.choice([secret(folder), kept])
    file.symlink_to(target)
    way = rng.choice(["read", "validate", "info", "view", "convert"])
    return Case(f"{name}: {file.relative_to(root)} is a link", reading(way, root, folder))


def _of_templates(rng: random.Random, folder: Path) -> Case:
    """Names that info.json makes of its patterns."""
    root = fresh("LeRobot v2.1", folder)
    path = root / "meta/info.json"
    values = json.loads(path.read_text())
    key = rng.choice(["data_path", "video_path"])
    values[key] = rng.choice(
        [
            "../{episode_index}.parquet",
            "/etc/{episode_index}",
            str(secret(folder)),
            "{episode_index.__class__}",
            "{episode_index:999999999d}",
            "a\0b",
            "C:\\x",
            "..\\..\\{episode_chunk}",
            "data/{episode_index:06d}/../../../x",
        ]
    )
    path.write_text(json.dumps(values))
    return Case(
        f"{key} is {values[key]!r}", reading(rng.choice(["read", "validate"]), root, folder)
    )


def _of_pairs(rng: random.Random, folder: Path) -> Case:
    import numpy as np
    from PIL import Image

    pairs = folder / "pairs"
    pairs.mkdir()
    outside = folder / "private"
    outside.mkdir()
    Image.fromarray(np.full((4, 4, 3), 77, np.uint8)).save(outside / "photo.png")
    way = rng.choice(["path", "absolute", "link", "folder link", "metadata"])
    name = {"path": "../private/photo.png", "absolute": str(outside / "photo.png")}.get(
        way, "0.png"
    )
    if way == "link":
        (pairs / "0.png").symlink_to(outside / "photo.png")
    if way == "folder link":
        (pairs / "deep").symlink_to(outside)
        name = "deep/photo.png"
    row = json.dumps({"file_name": name, "prompt": "what?", "answer": "a photo"})
    (pairs / "metadata.jsonl").write_text(row)
    if way == "metadata":
        (pairs / "metadata.jsonl").unlink()
        (pairs / "metadata.jsonl").symlink_to(secret(folder))
    return Case(f"pairs: {way}", lambda: read_pairs(pairs), check=_photo)


def read_pairs(folder: Path) -> list[Any]:
    """All pictures of image-text pairs."""
    import numpy as np

    from vla.data.loading.image_text import ImageTextPairs

    pairs = ImageTextPairs(folder)
    return [image.tolist() for image in pairs.batch(np.arange(len(pairs))).images]


def _photo(found: Any) -> str:
    return "a picture from outside was read" if 77 in str(found) and "77" in str(found) else ""


def _film(rng: random.Random, folder: Path) -> Case:
    """Results of others whose film is any file."""
    from attacks.results import write_run

    name = rng.choice(
        [str(secret(folder)), "../secret.txt", "videos/../../secret.txt", "videos/l.mp4"]
    )
    runs = [write_run(folder / name_of, name_of) for name_of in ("a", "b")]
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = runs[0] / "episodes.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("video")
    pq.write_table(table.set_column(place, "video", pa.array([name] * len(table))), path)
    (runs[0] / "videos").mkdir(exist_ok=True)
    (runs[0] / "videos/l.mp4").symlink_to(secret(folder))
    report = folder / "compared/report.html"
    command = ["compare", *map(str, runs), "--force", "--out", str(folder / "compared")]

    def read() -> str:
        said = run_command(command)
        import base64

        page = report.read_text() if report.exists() else ""
        hidden = base64.b64encode(secret(folder).read_bytes()).decode()
        return said + (secret(folder).read_text() if hidden[:40] in page else "")

    return Case(f"a film named {name!r}", read)
