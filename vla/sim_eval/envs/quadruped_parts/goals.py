"""Whether the quadruped has done what it was asked, and how it failed.

An episode is solved when `done` is said at two steps in a row and everything holds: the goals are
met in their order, nothing was touched, the robot stands, and it walked as it was asked to. QUART's
own rule is there for comparison (`Progress.meets_quart`): it counts who comes near at any time.
"""

from __future__ import annotations

import numpy as np

from vla.sim_eval.envs.quadruped_parts.language import Command, Goal
from vla.sim_eval.envs.quadruped_parts.manner import Gauge, Manner
from vla.sim_eval.envs.quadruped_parts.robot import LEGS, Robot
from vla.sim_eval.envs.quadruped_parts.scene import BAR_WIDTH, GATE_WIDTH, TRAY, Scene

REACH = 0.85
"""From the trunk's middle to that of a thing, metres: the head is 0.4 m before it."""
QUART_REACH = 1.0
QUART_UNLOAD = 0.10
BEHIND = 0.45
"""How far the trunk's middle must be behind a gate or bar."""
BLOCKING = 0.62
"""A ball that is nearer to the trunk's middle rolls no further."""
TIPPING = 0.9
"""Nearer to a tray than this the robot unloads."""
UNDER = (-1.1, 0.6)
"""Way along x before and behind a bar in which the robot goes as low and slow as it must."""


class Contacts:
    """Reads the contacts of one model: which feet are down, and what the robot has touched.

    Args:
        robot, scene: of the same model.
    """

    def __init__(self, robot: Robot, scene: Scene) -> None:
        model = robot.model
        self._data = robot.data
        trunk = model.body("trunk").id
        self._is_robot = model.body_rootid[model.geom_bodyid] == trunk
        self._is_floor = np.zeros(model.ngeom, dtype=bool)
        self._is_floor[model.geom("floor").id] = True
        # the ball on the back and in the tray touches what it touches
        self._is_ball = np.zeros(model.ngeom, dtype=bool)
        if scene.has_ball:
            self._is_ball[model.geom("ball").id] = True
        self._leg = np.full(model.ngeom, -1)
        for number, leg in enumerate(LEGS):
            self._leg[model.geom(f"{leg}_foot").id] = number

    def look(self, allowed: np.ndarray) -> tuple[np.ndarray, bool]:
        """(which feet touch the floor (4,), whether the robot touches something of the scene).

        allowed: bool per geom; what may be touched.
        """
        pairs_C2 = self._data.contact.geom  # C contacts, the two geoms of each
        feet = np.zeros(4, dtype=bool)
        if not len(pairs_C2):
            return feet, False
        on_floor_C = self._is_floor[pairs_C2].any(1)
        legs = self._leg[pairs_C2[on_floor_C]].max(1)
        feet[legs[legs >= 0]] = True
        others = pairs_C2[~on_floor_C]
        if not len(others):
            return feet, False
        ignored = (self._is_ball | allowed)[others].any(1)
        hit = self._is_robot[others].any(1) & ~ignored
        return feet, bool(hit.any())


class Watch:
    """What has happened in an episode so far, whatever was asked.

    Args:
        robot, scene: of one model, at the start of an episode.
        command: of the episode: it says what may be touched, and when speed and gait are judged.

    Attributes:
        fell, hit: have happened since the start.
        passed: gates and bars that the robot has gone through.
        side: on which side of it the robot has passed the obstacle; "" before.
        stopped: balls that roll no further.
        steps: control steps so far.
        harmed_at: the step in which it fell or first touched something, counted from 1; 0 before.
        done_for: at how many steps in a row `done` was said.
        gauge: speed and gait.
    """

    def __init__(self, robot: Robot, scene: Scene, command: Command) -> None:
        self.robot, self.scene, self.command = robot, scene, command
        self.fell = self.hit = False
        self.passed: list[str] = []
        self.side = ""
        self.stopped: set[str] = set()
        self.steps = self.harmed_at = 0
        self.done_for = 0
        self.gauge = Gauge()
        self._contacts = Contacts(robot, scene)
        self._rolls = bool(np.any(scene.layout.rolling))
        self._allowed = np.zeros(robot.model.ngeom, dtype=bool)
        if command.goals[0].kind == "stop":
            # a ball is stopped by what is in its way
            self._allowed[scene.geoms_of(command.goals[0].body)] = True
        self._from = self.xy

    @property
    def xy(self) -> np.ndarray:
        """The trunk's middle (2,)."""
        return np.array(self.robot.data.qpos[:2])

    def distance(self, body: str) -> float:
        """From the trunk's middle to that of a piece, metres."""
        return float(np.linalg.norm(self.scene.place(body) - self.xy))

    def tick(self, seconds: float) -> None:
        """Call after every tick of the controller."""
        feet, hit = self._contacts.look(self._allowed)
        self.hit |= hit
        self._note_harm()
        if not self._goes_as_it_must():
            self.gauge.tick(feet)
        self._watch_passages()
        if self._rolls:
            self._roll(seconds)

    def step(self, speed: float, done: bool) -> None:
        """Call after every control step.

        Args:
            speed: the way over the step per second, m/s.
            done: whether the robot says that it has arrived.
        """
        self.fell |= self.robot.fallen()
        self._note_harm()
        self.steps += 1
        if not self._goes_as_it_must():
            self.gauge.step(speed)
        self.done_for = self.done_for + 1 if done else 0

    def _note_harm(self) -> None:
        if not self.harmed_at and (self.fell or self.hit):
            self.harmed_at = self.steps + 1

    def _roll(self, seconds: float) -> None:
        for body in self.scene.layout.called("things"):
            if body in self.stopped:
                continue
            if self.distance(body) < BLOCKING:
                self.stopped.add(body)
            else:
                self.scene.roll(body, seconds)

    def _goes_as_it_must(self) -> bool:
        """Whether speed and gait are not judged now: under a bar, and at the goal."""
        if self.done_for or self.at(self.command.goals[-1]):
            return True
        x = self.xy[0]
        bars = self.scene.layout.called("bars")
        if any(UNDER[0] < x - self.scene.place(bar)[0] < UNDER[1] for bar in bars):
            return True
        # tipping the ball takes a second at which nobody walks
        trays = self.scene.layout.called("trays")
        return any(self.distance(tray) < TIPPING for tray in trays)

    def _watch_passages(self) -> None:
        """Notes through what, and on which side of the obstacle, the robot has gone."""
        now = self.xy
        layout = self.scene.layout
        gates = [(body, GATE_WIDTH / 2) for body in layout.called("gates")]
        bars = [(body, BAR_WIDTH / 2) for body in layout.called("bars")]
        for body, half in gates + bars:
            x, y = layout.places[body]
            if self._from[0] < x <= now[0] and abs(now[1] - y) < half:
                self.passed.append(body)
        if not self.side and "obstacle" in layout.words:
            place = layout.places["obstacle"]
            # seen from the start, which is the origin
            along = place / np.linalg.norm(place)
            offset = now - place
            if offset @ along >= 0:
                self.side = "left" if along[0] * offset[1] - along[1] * offset[0] > 0 else "right"
        self._from = now

    # --- goals ------------------------------------------------------------------------------------

    def at(self, goal: Goal) -> bool:
        """Whether the robot is where a goal wants it, and has done there what it asks."""
        if goal.kind in ("through", "crawl"):
            behind = self.xy[0] > self.scene.place(goal.body)[0] + BEHIND
            return bool(behind and goal.body in self.passed)
        if goal.kind == "unload":
            return self.unloaded(goal.body)
        near = self.distance(goal.body) < REACH
        if goal.kind == "around":
            return near and self.side == goal.side
        if goal.kind == "stop":
            return near and goal.body in self.stopped
        return near

    def unloaded(self, tray: str) -> bool:
        """Whether the ball lies in a tray."""
        ball = self.scene.ball
        offset = ball[:2] - self.scene.place(tray)
        yaw = self.scene.layout.yaws[tray]
        along = np.cos(yaw) * offset[0] + np.sin(yaw) * offset[1]
        across = np.cos(yaw) * offset[1] - np.sin(yaw) * offset[0]
        return bool(max(abs(along), abs(across)) < TRAY and ball[2] < 0.1)

    @property
    def ball_on_back(self) -> bool:
        """Whether the ball is still carried."""
        return bool(self.scene.ball[2] > self.robot.data.qpos[2])

    def near_by_quart(self, goal: Goal) -> bool:
        """QUART's rule for one goal: near enough, or past the gate or bar, whatever was touched."""
        if goal.kind in ("through", "crawl"):
            return goal.body in self.passed
        place = self.scene.place(goal.body)
        if goal.kind == "unload":
            return bool(np.linalg.norm(self.scene.ball[:2] - place) < QUART_UNLOAD)
        if goal.kind == "distinguish":
            return self._looks_at(place) or self.distance(goal.body) < QUART_REACH
        return self.distance(goal.body) < QUART_REACH

    def _looks_at(self, place: np.ndarray) -> bool:
        """Whether a place is within 5 degrees of the heading, and no more than 2 m away."""
        body = self.robot.sense()
        way = place - body.xy
        off = (np.arctan2(way[1], way[0]) - body.yaw + np.pi) % (2 * np.pi) - np.pi
        return bool(abs(off) < np.deg2rad(5) and np.linalg.norm(way) < 2 * QUART_REACH)


class Progress:
    """How far one command has been fulfilled in what a `Watch` has seen.

    Args:
        watch: the episode.
        command: what is asked; the episode's own, or another one of the same scene.
        manner: how, if that is asked too.
    """

    def __init__(self, watch: Watch, command: Command, manner: Manner | None = None) -> None:
        self.watch, self.command, self.manner = watch, command, manner
        self._met_by_quart = 0

    @property
    def goal(self) -> Goal:
        """The goal that is next."""
        for goal in self.command.goals[:-1]:
            if not self.watch.at(goal):
                return goal
        return self.command.goals[-1]

    def step(self) -> None:
        """Call after every control step, for QUART's rule, which asks what ever was."""
        goals = self.command.goals
        if self._met_by_quart < len(goals):
            self._met_by_quart += self.watch.near_by_quart(goals[self._met_by_quart])

    @property
    def meets_quart(self) -> bool:
        """Whether it is solved at this or an earlier step, by QUART's rule."""
        return self._met_by_quart == len(self.command.goals)

    def met(self) -> bool:
        """Whether all goals are met, nothing was touched, and the robot stands."""
        watch = self.watch
        unharmed = not (watch.fell or watch.hit)
        return unharmed and all(watch.at(goal) for goal in self.command.goals)

    @property
    def success(self) -> bool:
        """Whether it is solved at this step, by our rule."""
        if not self.said_done or not self.met():
            return False
        return self.manner is None or self.watch.gauge.shows(self.manner)

    @property
    def said_done(self) -> bool:
        """Whether the robot has just said for the second time that it has arrived."""
        return self.watch.done_for >= 2

    def failure(self) -> tuple[str, int]:
        """What went wrong, one of FAILURES, and at which control step, counted from 1."""
        watch = self.watch
        if watch.fell:
            return "fell", watch.harmed_at
        if watch.hit:
            return "hit", watch.harmed_at
        if not self.said_done:
            return "time limit", watch.steps
        # said here, where it is not so
        return "wrong manner" if self.met() else "wrong place", watch.steps

    @property
    def over(self) -> bool:
        """Whether nothing can be saved any more: fallen, or `done` was said where it is not."""
        return self.watch.fell or (self.said_done and not self.success)


FAILURES = ("fell", "hit", "wrong place", "wrong manner", "time limit")
"""How an episode can fail."""


__all__ = ["FAILURES", "Contacts", "Progress", "Watch"]
