"""A scripted expert for every goal of the quadruped.

It follows a point ahead (pure pursuit, Coulter 1992) and sets the posture by a rule. What it does
depends on the present state alone, so that a policy can imitate it, and so that it recovers from
any disturbance.
"""

from __future__ import annotations

import numpy as np

from vla.sim_eval.envs.quadruped_parts.commands import GAIT_SLICE, GAITS, HIGH, LOW, STAND
from vla.sim_eval.envs.quadruped_parts.goals import Progress
from vla.sim_eval.envs.quadruped_parts.language import Goal
from vla.sim_eval.envs.quadruped_parts.manner import GAIT_WORDS, Manner
from vla.sim_eval.envs.quadruped_parts.robot import BodyState

SPEED = {"slowly": 0.34, "normally": 0.62, "quickly": 1.02}
"""What is commanded for each adverb, m/s: in the middle of the bands, or a little above it where
turning slows the robot down."""
NORMALLY = Manner("normally", "trotting")
CONTENT = 0.76
"""Distance from a thing at which the expert stops, within what counts (`goals.REACH`)."""
KEEP = 0.62
"""Distance that it keeps from the middle of what must not be touched."""
ASIDE = 0.72
"""Distance from the middle of an obstacle at which it passes."""
LANE = 0.16
"""Greatest distance from a gate's middle line at which it goes through."""
CRAWL_HEIGHT = 0.165
TIP_FROM = 0.60
"""Distance from a tray's middle at which the ball rolls into it."""
TIP = 0.35


class Expert:
    """Actions for one episode.

    Args:
        progress: the episode; its command is what is acted out.
        manner: how; by default at a normal speed in a trot.
    """

    def __init__(self, progress: Progress, manner: Manner | None = None) -> None:
        self.progress, self.watch = progress, progress.watch
        self.scene = progress.watch.scene
        self.manner = manner or NORMALLY

    def action(self) -> tuple[np.ndarray, bool]:
        """The command (11,), inside the box, and whether `done` is said."""
        goal = self.progress.goal
        body = self.watch.robot.sense()
        command = self._posture(STAND.copy())
        if goal.kind == "unload":
            done = self._unload(command, goal, body)
        elif self._content(goal, body):
            done = True
        else:
            done = False
            self._walk(command, self._aim(goal, body), body)
            self._duck(command, body)
            if goal.kind not in ("through", "crawl"):
                # the controller brakes by 1 m/s2, and the head is 0.3 m before the middle
                left = self.watch.distance(goal.body) - CONTENT
                command[0] = min(command[0], 0.25 + 1.2 * max(0.0, left))
        if done:
            command[:3] = 0.0
        return np.clip(command, LOW, HIGH), done

    def _posture(self, command: np.ndarray) -> np.ndarray:
        command[GAIT_SLICE] = GAITS[GAIT_WORDS[self.manner.gait]]
        if self.manner.speed == "quickly":
            # longer steps than a gait can do would be shortened: more of them instead
            command[4] = HIGH[4]
        return command

    # --- where to ---------------------------------------------------------------------------------

    def _content(self, goal: Goal, body: BodyState) -> bool:
        """Whether it has arrived, with room for a step that overshoots."""
        if not self.watch.at(goal):
            return False
        place = self.scene.place(goal.body)
        if goal.kind in ("through", "crawl"):
            return bool(body.xy[0] > place[0] + 0.65)
        return bool(np.linalg.norm(place - body.xy) < CONTENT) or goal.kind == "stop"

    def _aim(self, goal: Goal, body: BodyState) -> np.ndarray:
        """The point (2,) that it walks towards now."""
        place = self.scene.place(goal.body)
        if goal.kind in ("through", "crawl"):
            return self._lane(place, body.xy)
        if goal.kind == "around" and not self.watch.side:
            return self._beside("obstacle", goal.side, place, body.xy)
        return self._past_obstacles(goal.body, place, body.xy)

    def _lane(self, gate: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Along the middle line of a gate or bar."""
        before, aside = gate[0] - xy[0], xy[1] - gate[1]
        if -0.3 < before < 0.5 and abs(aside) > LANE:
            # too late to get into the lane: back, and once more
            return gate - [1.3, 0.0] if before > 0 else xy + [0.5, 0.0]
        # a point on the line, the nearer the farther the robot is beside it
        ahead = max(0.35, 0.7 - abs(aside))
        return np.array([max(xy[0] + ahead, min(gate[0] - 0.75, xy[0] + 1.0)), gate[1]])

    def _past_obstacles(self, target: str, place: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Straight to a place, or beside the first thing that stands in the way."""
        way = place - xy
        length = float(np.linalg.norm(way))
        along = way / max(length, 1e-6)
        blocking = ""
        nearest = length
        for body in self.scene.layout.words:
            if body == target or body.startswith(("gate", "bar", "tray")):
                continue
            offset = self.scene.place(body) - xy
            ahead = float(offset @ along)
            aside = float(along[0] * offset[1] - along[1] * offset[0])
            if -0.1 < ahead < nearest and abs(aside) < KEEP:
                blocking, nearest = body, ahead
        if not blocking:
            return place
        offset = self.scene.place(blocking) - xy
        # the side that is nearer
        left = along[0] * offset[1] - along[1] * offset[0] < 0
        return self._beside(blocking, "left" if left else "right", place, xy)

    def _beside(self, body: str, side: str, target: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """A point on one side of a piece, as seen on the way to the target."""
        place = self.scene.place(body)
        along = target / np.linalg.norm(target) if body == "obstacle" else target - xy
        along = along / np.linalg.norm(along)
        aside = np.array([-along[1], along[0]]) * (1.0 if side == "left" else -1.0)
        point: np.ndarray = place + ASIDE * aside
        if (point - xy) @ along < 0.25:
            # level with it: on, beside it
            point = xy + 0.5 * along + 0.5 * max(0.0, ASIDE - float((xy - place) @ aside)) * aside
        return point

    # --- how --------------------------------------------------------------------------------------

    def _walk(self, command: np.ndarray, point: np.ndarray, body: BodyState) -> None:
        """Speed and turn towards a point."""
        off = self._off(point, body)
        # slower in a turn, and hardly forwards where the point is behind
        share = np.clip(1.25 - 1.1 * abs(off), 0.15, 1.0)
        command[0] = SPEED[self.manner.speed] * share
        command[2] = np.clip(2.0 * off, -1.0, 1.0)

    def _off(self, point: np.ndarray, body: BodyState) -> float:
        """The angle from the heading to a point, to the left, within +-pi."""
        way = point - body.xy
        angle = np.arctan2(way[1], way[0]) - body.yaw
        return float((angle + np.pi) % (2 * np.pi) - np.pi)

    def _duck(self, command: np.ndarray, body: BodyState) -> None:
        """Low under a bar, with short and frequent steps."""
        for bar in self.scene.layout.called("bars"):
            if -1.05 < body.xy[0] - self.scene.place(bar)[0] < 0.5:
                command[3], command[4], command[8] = CRAWL_HEIGHT, HIGH[4], 0.05

    def _unload(self, command: np.ndarray, goal: Goal, body: BodyState) -> bool:
        """Walks up to the tray and tips the ball into it; returns whether it is there."""
        if not self.watch.ball_on_back:
            return self.watch.at(goal)
        tray = self.scene.place(goal.body)
        off, distance = self._off(tray, body), float(np.linalg.norm(tray - body.xy))
        if distance > TIP_FROM + 0.03:
            self._walk(command, tray, body)
            # gently at the end: a ball that lies loose rolls on when the robot stops
            command[0] = min(command[0], 0.15 + 0.8 * (distance - TIP_FROM))
        elif abs(off) > 0.10:
            command[2] = np.clip(2.0 * off, -0.6, 0.6)
        else:
            command[9] = TIP
        return False


__all__ = ["Expert"]
