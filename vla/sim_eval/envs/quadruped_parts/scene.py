"""What stands around the quadruped: coloured things, letters on boards, gates, bars, trays.

Everything is a primitive. A model holds what its family needs and nothing else; where the pieces
stand and which colours they have is set at every start, without compiling. Units: metres, radians.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vla.sim_eval.envs.quadruped_parts.robot import model_xml

# far apart in hue, so that shading and compression leave no doubt about a colour's name
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.60, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.95, 0.85, 0.05),
    "purple": (0.55, 0.10, 0.65),
    "orange": (1.00, 0.45, 0.00),
}
SHAPES: dict[str, tuple[str, str, float]] = {
    "cube": ("box", "0.2 0.2 0.2", 0.2),
    "ball": ("sphere", "0.22", 0.22),
    "cylinder": ("cylinder", "0.16 0.3", 0.3),
}
"""MuJoCo's type, its size, and how high the middle is above the floor."""
SLOTS = 3
"""Things, or letters, of a scene."""
LETTERS: dict[str, str] = {
    "a": "010 101 111 101 101",
    "b": "110 101 110 101 110",
    "c": "011 100 100 100 011",
    "e": "111 100 110 100 111",
    "h": "101 101 111 101 101",
    "t": "111 010 010 010 010",
}
"""Rows from top to bottom, columns from left to right as the robot sees them."""
GATE_WIDTH, GATE_HEIGHT = 0.80, 0.70
BAR_WIDTH = 1.0
BAR_LOWEST, BAR_HIGHEST = 0.27, 0.31
"""Lower edge of a bar. The robot stands 0.34 high, and crawls below 0.23."""
TRAY = 0.22
"""From a tray's middle to its walls."""
BALL = 0.045
"""Radius of the ball on the back."""
BALL_SEAT = (-0.06, 0.0, 0.05 + BALL)
"""Where the ball lies at the start, in the trunk's axes."""

Piece = Literal["things", "letters", "obstacle", "gates", "bars", "trays"]
PIECES: dict[Piece, tuple[str, ...]] = {
    "things": tuple(f"thing{i}" for i in range(SLOTS)),
    "letters": tuple(f"letter{i}" for i in range(SLOTS)),
    "obstacle": ("obstacle",),
    "gates": ("gate0", "gate1"),
    "bars": ("bar0", "bar1"),
    "trays": ("tray0", "tray1"),
}
"""Bodies of each kind of piece."""


@dataclass
class Layout:
    """What an episode's scene is.

    Attributes:
        words: body -> what it is called: "red cube", "a", "green"; also says which bodies there
            are.
        places: body -> (x, y) on the floor.
        yaws: body -> its turn; 0 faces a robot that comes from the start.
        bar_height: lower edge of the bars.
        rolling: velocity (2,) of the things, m/s.
    """

    words: dict[str, str] = field(default_factory=dict)
    places: dict[str, np.ndarray] = field(default_factory=dict)
    yaws: dict[str, float] = field(default_factory=dict)
    bar_height: float = BAR_HIGHEST
    rolling: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def put(self, body: str, place: np.ndarray, words: str = "", yaw: float = 0.0) -> None:
        """Adds a body of the scene."""
        self.words[body], self.places[body], self.yaws[body] = words, np.asarray(place), yaw

    def called(self, kind: Piece) -> list[str]:
        """The bodies of a kind that this scene has, in order."""
        return [body for body in PIECES[kind] if body in self.words]


def scene_xml(pieces: tuple[Piece, ...]) -> str:
    """The robot among these kinds of pieces, as MJCF."""
    makers = {
        "things": _thing,
        "letters": _letter,
        "obstacle": _obstacle,
        "gates": _gate,
        "bars": _bar,
        "trays": _tray,
    }
    bodies = [makers[kind](body) for kind in pieces for body in PIECES[kind]]
    # the seat and the ball come together: a ball without walls would roll off at the first step
    if "trays" not in pieces:
        return model_xml("".join(bodies))
    bodies.append(
        f'<body name="ball" pos="0 0 1"><freejoint name="ball"/><geom name="ball" type="sphere" '
        f'size="{BALL}" mass="0.05" contype="1" conaffinity="1" condim="6" '
        'friction="0.8 0.01 0.002" solref="0.01 1" rgba="0.98 0.98 0.98 1"/></body>'
    )
    return model_xml("".join(bodies), on_trunk=_seat())


def _mocap(name: str, geoms: str) -> str:
    # mocap: moved between episodes without a new model, and nothing moves it in between; far off
    # until it is put somewhere
    return f'<body name="{name}" mocap="true" pos="-9 9 0">{geoms}</body>'


def _box(name: str, size: str, place: str, rgba: str = "0.9 0.9 0.9 1", kind: str = "world") -> str:
    return (
        f'<geom name="{name}" class="{kind}" type="box" size="{size}" pos="{place}" rgba="{rgba}"/>'
    )


def _thing(body: str) -> str:
    """One geom of every shape; a start shows one of them."""
    geoms = ""
    for shape, (kind, size, height) in SHAPES.items():
        geoms += (
            f'<geom name="{body}_{shape}" class="world" type="{kind}" size="{size}" '
            f'pos="0 0 {height}"/>'
        )
    return _mocap(body, geoms)


def _letter(body: str) -> str:
    """A white board with fifteen black fields, of which a start shows those of a letter."""
    geoms = _box(f"{body}_board", "0.02 0.40 0.45", "0 0 0.45", "0.95 0.95 0.95 1")
    for row in range(5):
        for column in range(3):
            place = f"-0.025 {0.22 * (1 - column):.3f} {0.13 + 0.16 * (4 - row):.3f}"
            name = f"{body}_{row}{column}"
            geoms += _box(name, "0.005 0.11 0.08", place, "0.05 0.05 0.05 1", "painted")
    return _mocap(body, geoms)


def _obstacle(body: str) -> str:
    return _mocap(body, _box(body, "0.15 0.22 0.20", "0 0 0.20", "0.35 0.30 0.28 1"))


def _gate(body: str) -> str:
    """Two posts and a beam, with a painted mat behind that says where the way ends."""
    half, high = GATE_WIDTH / 2 + 0.05, GATE_HEIGHT / 2
    return _mocap(
        body,
        _box(f"{body}_left", f"0.05 0.05 {high}", f"0 {half} {high}")
        + _box(f"{body}_right", f"0.05 0.05 {high}", f"0 {-half} {high}")
        + _box(f"{body}_beam", f"0.05 {half + 0.05} 0.05", f"0 0 {2 * high + 0.05}")
        + _mat(body, GATE_WIDTH / 2),
    )


def _bar(body: str) -> str:
    """A beam on two posts. The body's origin is at the beam's lower edge."""
    half = BAR_WIDTH / 2
    post = BAR_LOWEST / 2
    return _mocap(
        body,
        _box(f"{body}_beam", f"0.04 {half} 0.04", "0 0 0.04")
        + _box(f"{body}_left", f"0.03 0.03 {post}", f"0 {half} {-post}", "0.3 0.3 0.3 1")
        + _box(f"{body}_right", f"0.03 0.03 {post}", f"0 {-half} {-post}", "0.3 0.3 0.3 1")
        + _mat(body, half - 0.1, down=BAR_LOWEST),
    )


def _mat(body: str, half: float, down: float = 0.0) -> str:
    # what was passed under is out of sight: without a mark ahead no picture says "far enough"
    return _box(f"{body}_mat", f"0.4 {half} 0.002", f"1.6 0 {0.002 - down}", kind="painted")


def _tray(body: str) -> str:
    geoms = _box(f"{body}_floor", f"{TRAY} {TRAY} 0.004", "0 0 0.004")
    wall, high = TRAY + 0.01, 0.04
    for name, x, y in (("far", wall, 0.0), ("near", -wall, 0.0), ("left", 0.0, wall)):
        across = f"0.01 {TRAY + 0.02}" if x else f"{TRAY + 0.02} 0.01"
        geoms += _box(f"{body}_{name}", f"{across} {high}", f"{x} {y} {high}")
    geoms += _box(f"{body}_right", f"{TRAY + 0.02} 0.01 {high}", f"0 {-wall} {high}")
    return _mocap(body, geoms)


def _seat() -> str:
    """Low walls around the back. The front one is a lip of 2 mm, over which the ball rolls when
    the trunk is pitched by more than 0.3 rad."""
    walls = (
        ("seat_rear", "0.005 0.075 0.02", "-0.145 0 0.07"),
        ("seat_left", "0.14 0.005 0.02", "0 0.075 0.07"),
        ("seat_right", "0.14 0.005 0.02", "0 -0.075 0.07"),
        ("seat_lip", "0.004 0.075 0.001", "0.05 0 0.051"),
    )
    return "".join(
        f'<geom name="{name}" type="box" size="{size}" pos="{place}" mass="0.01" '
        'rgba="0.25 0.25 0.27 1"/>'
        for name, size, place in walls
    )


class Scene:
    """Lays out one model, and knows where its pieces are.

    Args:
        model, data: compiled from `scene_xml(pieces)`.
        pieces: kinds of pieces in the model.
    """

    def __init__(self, model: Any, data: Any, pieces: tuple[Piece, ...]) -> None:
        self.model, self.data, self.pieces = model, data, pieces
        self.layout = Layout()
        names = [body for kind in pieces for body in PIECES[kind]]
        self._mocap = {name: int(model.body(name).mocapid[0]) for name in names}
        self._geoms = {model.geom(i).name: i for i in range(model.ngeom)}
        self.has_ball = "trays" in pieces
        if self.has_ball:
            self._ball = int(model.joint("ball").qposadr[0])

    def lay_out(self, layout: Layout) -> None:
        """Puts the pieces where they belong, in their colours; what is not named is far away."""
        self.layout = layout
        for body in self._mocap:
            there = body in layout.words
            place = layout.places[body] if there else np.array([-9.0, 9.0])
            lifted = layout.bar_height if body.startswith("bar") else 0.0
            self._place(body, place, lifted, layout.yaws.get(body, 0.0))
            if there:
                self._dress(body, layout.words[body])

    def _place(self, body: str, place: np.ndarray, z: float, yaw: float) -> None:
        number = self._mocap[body]
        self.data.mocap_pos[number] = [*place, z]
        self.data.mocap_quat[number] = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]

    def _dress(self, body: str, words: str) -> None:
        """Shows what the words say: shape and colour, a letter, or a colour."""
        if body.startswith("thing"):
            colour, shape = words.split()
            for name in SHAPES:
                self._show(f"{body}_{name}", name == shape)
                self._paint(f"{body}_{name}", colour)
        elif body.startswith("letter"):
            for row, fields in enumerate(LETTERS[words].split()):
                for column, filled in enumerate(fields):
                    self._show(f"{body}_{row}{column}", filled == "1", touchable=False)
        elif words:
            for name in self._geoms:
                if name.startswith(f"{body}_") and not self._is_post(name):
                    self._paint(name, words)

    def _is_post(self, name: str) -> bool:
        return name.startswith("bar") and name.endswith(("_left", "_right"))

    def _show(self, name: str, on: bool, *, touchable: bool = True) -> None:
        geom = self._geoms[name]
        self.model.geom_rgba[geom, 3] = float(on)
        # unseen and untouchable: one without the other would leave an invisible obstacle
        self.model.geom_conaffinity[geom] = int(on and touchable)

    def _paint(self, name: str, colour: str) -> None:
        self.model.geom_rgba[self._geoms[name], :3] = COLOURS[colour]

    def place(self, body: str) -> np.ndarray:
        """Where a piece is now (2,)."""
        return np.array(self.data.mocap_pos[self._mocap[body], :2])

    def roll(self, body: str, seconds: float) -> None:
        """Moves a rolling thing on."""
        self.data.mocap_pos[self._mocap[body], :2] += self.layout.rolling * seconds

    @property
    def ball(self) -> np.ndarray:
        """The middle of the ball (3,)."""
        return np.array(self.data.qpos[self._ball : self._ball + 3])

    def seat_ball(self) -> None:
        """Puts the ball onto the robot's back, at rest; the robot stands upright."""
        body = self.data.body("trunk")
        place = body.xpos + body.xmat.reshape(3, 3) @ np.array(BALL_SEAT)
        self.data.qpos[self._ball : self._ball + 7] = [*place, 1.0, 0.0, 0.0, 0.0]

    def geoms_of(self, body: str) -> np.ndarray:
        """Ids of the geoms of a piece."""
        number = self.model.body(body).id
        return np.flatnonzero(self.model.geom_bodyid == number)


__all__ = [
    "COLOURS",
    "LETTERS",
    "PIECES",
    "SHAPES",
    "SLOTS",
    "Layout",
    "Piece",
    "Scene",
    "scene_xml",
]
