"""A walking controller without learning: it tracks eleven commands in four gaits.

Each foot has a clock. While its phase is below `Tuning.duty` the foot stands and goes backwards
under the trunk as fast as the trunk is to go forwards; then it swings to its next foothold, which
Raibert's rule sets (Legged Robots That Balance, 1986, chapter 2): the middle of the next stance,
plus a share of the error of velocity,

    foothold = nominal + v T / 2 + k (v_measured - v_commanded),   T = duty / frequency.

Legs are lengthened against the tilt of the trunk, inverse kinematics gives the angles, and the
servos hold them. docs/quadruped.md has all formulas, with what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.sim_eval.envs.quadruped_parts.commands import (
    DUTY,
    GAIT_SLICE,
    HIGH,
    LOW,
    PER_SECOND,
    STAND,
    allows_change,
    finite_command,
    keeps_speed,
    safe_command,
)
from vla.sim_eval.envs.quadruped_parts.kinematics import leg_angles
from vla.sim_eval.envs.quadruped_parts.robot import (
    END,
    FOOT,
    HIP_X,
    HIPS,
    SIDE,
    TIMESTEP,
    BodyState,
    Robot,
)

CONTROL_TICK = 0.01
"""Seconds between two calls of `Gait.control`."""
TICK_STEPS = round(CONTROL_TICK / TIMESTEP)
"""Steps of the physics in that time."""
GRAVITY = 9.81


@dataclass(frozen=True)
class Tuning:
    """Gains of the controller.

    Attributes:
        duty: share of a foot's cycle in which it stands.
        raibert: seconds; way of a foothold per error of velocity.
        level, rate: how strongly legs answer a tilt (1) and its rate (s).
        trim: per second; how fast an error of velocity is added to what is commanded.
        trim_error: the greatest error of the two speeds that is added up, m/s.
        trim_limit: the most that is added, m/s and rad/s.
        flight_raibert, flight_trim: the same in a pronk, whose speed swings and whose every landing
            brakes.
        push: of a pronk: how much of the speed that its flight takes the legs give the trunk; above
            1, since servos are late.
        reach: greatest way of a foothold from its nominal place, metres.
        height_trim: per second; how fast an error of height is added to the legs.
        lead: seconds by which the servos' targets are ahead of the feet.
        safe: whether commands are kept inside what the gait can do (`safe_command`).
    """

    duty: float = DUTY
    raibert: float = 0.10
    level: float = 0.35
    rate: float = 0.035
    trim: float = 1.0
    trim_error: float = 0.25
    trim_limit: float = 0.3
    flight_raibert: float = 0.05
    flight_trim: float = 0.45
    push: float = 1.2
    reach: float = 0.13
    height_trim: float = 1.0
    lead: float = 0.014
    safe: bool = True


class GaitError(UserError):
    """The controller cannot start from where the robot lies."""


class Gait:
    """Tracks commands: call `control` every CONTROL_TICK, then step the physics TICK_STEPS times.

    Args:
        robot: what it moves.
        tuning: gains.
    """

    def __init__(self, robot: Robot, tuning: Tuning | None = None) -> None:
        self.robot, self.tuning = robot, tuning or Tuning()
        self._largest_change = PER_SECOND * CONTROL_TICK
        self._clear()

    def start(self) -> None:
        """Forgets the past: the robot stands, as `Robot.stand` leaves it.

        Raises GaitError if it does not.
        """
        if self.robot.fallen():
            raise GaitError(
                f"robot: lies at {self.robot.sense().height:.2f} m, or on its back or side; "
                "call robot.stand() before the controller starts"
            )
        self._clear()

    def _clear(self) -> None:
        self.command = STAND.copy()
        """What is followed now: the command asked for, approached at a limited rate."""
        self._asked = self._goal = STAND.copy()
        self._arrived = True
        self.phases = self._offsets()
        """Where each foot is in its cycle, 0 to 1; four floats."""
        self.standing = True
        """Whether all feet stand still."""
        self._clock = 0.0
        self._trim = [0.0, 0.0, 0.0]
        self._velocity = [0.0, 0.0, 0.0]
        self._height_trim = 0.0
        self._folded = 0.0
        self.feet = np.array([self._nominal(foot) for foot in range(4)])
        """Where the feet are to be (4, 3), from the trunk's middle, in level axes."""
        self._lifted: list[tuple[float, float]] = [(x, y) for x, y, _ in self.feet.tolist()]
        self._stood = [True] * 4
        self._aimed = self.feet.copy()

    # --- one tick ---------------------------------------------------------------------------------
    # A hundred times a second for each robot: four feet are plain floats in a loop, since NumPy
    # takes as long for four numbers as for a thousand.

    def control(self, command: Any) -> None:
        """Moves the servos' targets on by one tick towards a command (11,), clipped to the box.

        Raises CommandError for NaN or a wrong shape.
        """
        asked = np.minimum(np.maximum(finite_command(command), LOW), HIGH)
        self._approach(asked)
        body = self.robot.sense()
        # a filter of 60 ms: the trunk sways with every step
        pairs = zip(self._velocity, body.velocity.tolist(), strict=True)
        self._velocity = [old + 0.15 * (new - old) for old, new in pairs]
        self._decide(asked)
        if not self.standing:
            self._step()
        self._keep_height(body)
        self._hold(body)

    def _approach(self, asked: np.ndarray) -> None:
        """Moves the command that is followed towards the one asked for."""
        if (asked != self._asked).any():
            # remembered: the same command comes for many ticks
            self._asked = asked
            self._goal = safe_command(asked) if self.tuning.safe else asked
            self._arrived = False
        # a command that is followed already stays as it is
        if self._arrived:
            return
        goal = self._held_back(self._goal) if self.tuning.safe else self._goal
        largest = self._largest_change
        way = goal - self.command
        # exactly the goal at last, not a rounding error beside it
        arrives = np.abs(way) <= largest
        part = self.command + np.minimum(np.maximum(way, -largest), largest)
        moved = np.where(arrives, goal, part)
        if self.tuning.safe and not keeps_speed(moved):
            # first slower, then lower or into another gait
            moved[3:] = self.command[3:]
        if (moved[GAIT_SLICE] != self.command[GAIT_SLICE]).any():
            # what a pronk needs sideways would topple a trot
            self._trim = [0.0, 0.0, 0.0]
        self.command = moved
        self._arrived = bool((moved == self._goal).all())

    def _held_back(self, goal: np.ndarray) -> np.ndarray:
        """What of a safe command (11,) can be approached now."""
        changes = (goal[GAIT_SLICE] != self.command[GAIT_SLICE]).any()
        if changes and not allows_change(self.command):
            return np.concatenate([np.zeros(3), self.command[3:]])
        # no faster than gait and posture of this moment can go
        present = np.concatenate([goal[:3], self.command[3:]])
        return np.concatenate([safe_command(present)[:3], goal[3:]])

    def _decide(self, asked: np.ndarray) -> None:
        """Whether feet stand still or step.

        Feet that stand still are never dragged over the ground, so a robot that stands does not
        drift; it steps again if it is pushed, or if its feet belong elsewhere.
        """
        velocities = (*asked[:3].tolist(), *self.command[:3].tolist())
        going = max(map(abs, velocities)) > 0.02
        if going:
            self.standing = False
            return
        astray = 0.0
        for foot, (x, y, _) in enumerate(self.feet.tolist()):
            nominal_x, nominal_y, _ = self._nominal(foot)
            astray = max(astray, abs(x - nominal_x), abs(y - nominal_y))
        pushed = max(map(abs, self._velocity[:2]))
        if self.standing:
            self.standing = not (astray > 0.06 or pushed > 0.30)
            return
        at_rest = astray < 0.03 and pushed < 0.12
        if at_rest and max(self.phases) < self.tuning.duty:
            self.standing = True
            self._trim = [0.0, 0.0, 0.0]

    def _step(self) -> None:
        """Moves clocks and feet on."""
        tuning, wanted = self.tuning, self.command[:3].tolist()
        limit = tuning.flight_trim if self._flies() else tuning.trim_limit
        for i, (asked, measured) in enumerate(zip(wanted, self._velocity, strict=True)):
            # a robot that gets going late must not be driven the faster for it when it does; yaw
            # swings with every step, and cut off on one side its mean would be another
            most = tuning.trim_error if i < 2 else math.inf
            error = min(max(asked - measured, -most), most)
            trim = self._trim[i] + tuning.trim * CONTROL_TICK * error
            self._trim[i] = min(max(trim, -limit), limit)
        vx, vy, wz = (a + b for a, b in zip(wanted, self._trim, strict=True))
        self._advance_clocks()
        folded = self._push()
        feet = self.feet.tolist()
        for foot, phase in enumerate(self.phases):
            x, y, _ = feet[foot]
            stands = phase < tuning.duty
            if stands:
                # a standing foot rests on the ground, which goes backwards under the trunk
                down = self._nominal(foot)[2] + folded
                back, aside = CONTROL_TICK * (vx - wz * y), CONTROL_TICK * (vy + wz * x)
                feet[foot] = (x - back, y - aside, down)
            else:
                if self._stood[foot]:
                    self._lifted[foot] = (x, y)
                feet[foot] = self._swing(foot, vx, vy, wz)
            self._stood[foot] = stands
        self.feet = np.array(feet)

    def _advance_clocks(self) -> None:
        """Each foot keeps the common clock's time at its gait's distance.

        A foot that is out of step, since the gait has changed, ends its swing, then stands until
        its next swing begins in the new gait: a foot never jumps, and at a change more feet stand,
        not fewer.
        """
        duty, passed = self.tuning.duty, float(self.command[4]) * CONTROL_TICK
        self._clock = (self._clock + passed) % 1.0
        for foot, offset in enumerate(self._offsets()):
            own = (self.phases[foot] + passed) % 1.0
            if self.phases[foot] < duty or own < duty:
                # what a standing foot does follows from the ground alone, so its clock may jump
                wanted = (self._clock + offset) % 1.0
                own = wanted if wanted < duty + 1.5 * passed else 0.5 * duty
            self.phases[foot] = own

    def _flies(self) -> bool:
        """Whether all feet keep the same time, so that they leave the ground together: a pronk."""
        return all(abs(phase - self._clock) < 1e-9 for phase in self.phases)

    def _push(self) -> float:
        """By how much standing legs are folded now, metres: 0 but in a pronk.

        A trunk that flies for T needs g T / 2 upwards when its feet leave the ground, and comes
        down as fast. A parabola over the stance has both: it is deepest in the middle.
        """
        tuning, phase = self.tuning, self.phases[0]
        deep, fastest = 0.0, 0.003
        if not self.standing and phase < tuning.duty and self._flies():
            frequency = float(self.command[4])
            stance, flight = tuning.duty / frequency, (1 - tuning.duty) / frequency
            share = phase / tuning.duty
            deep = tuning.push * GRAVITY * flight * stance / 2 * share * (1 - share)
            fastest = 0.01
        # a gait that changes in the middle of a stance, or ends there, must not kick
        self._folded += min(max(deep - self._folded, -fastest), fastest)
        return self._folded

    def _swing(self, foot: int, vx: float, vy: float, wz: float) -> tuple[float, float, float]:
        """Where a foot is that swings: along a cycloid to its foothold."""
        tuning, reach = self.tuning, self.tuning.reach
        x, y, z = self._nominal(foot)
        share = min(max((self.phases[foot] - tuning.duty) / (1 - tuning.duty), 0.0), 1.0)
        half = 0.5 * tuning.duty / float(self.command[4])
        wanted_x, wanted_y = self.command[:2].tolist()
        gain = tuning.flight_raibert if self._flies() else tuning.raibert
        ahead = half * (vx - wz * y) + gain * (self._velocity[0] - wanted_x)
        aside = half * (vy + wz * x) + gain * (self._velocity[1] - wanted_y)
        x += min(max(ahead, -reach), reach)
        y += min(max(aside, -reach), reach)
        # a cycloid starts and ends at rest, so feet neither kick off nor stamp
        along = share - math.sin(2 * math.pi * share) / (2 * math.pi)
        from_x, from_y = self._lifted[foot]
        # not higher than a folded leg has room for
        high = min(float(self.command[8]), 0.45 * float(self.command[3]))
        up = high * math.sin(math.pi * share) ** 2
        return from_x + along * (x - from_x), from_y + along * (y - from_y), z + up

    def _keep_height(self, body: BodyState) -> None:
        error = float(self.command[3]) - body.height
        change = self.tuning.height_trim * CONTROL_TICK * error
        self._height_trim = min(max(self._height_trim + change, -0.04), 0.04)
        if self.standing:
            self.feet[:, 2] = FOOT - self.command[3] + self._push()

    def _hold(self, body: BodyState) -> None:
        """Turns the feet into the axes of a trunk that leans against its tilt, and aims there."""
        tuning, wanted = self.tuning, float(self.command[9])
        roll_rate, pitch_rate = body.tilt_rates.tolist()
        roll = -tuning.level * body.roll - tuning.rate * roll_rate
        pitch = wanted - tuning.level * (body.pitch - wanted) - tuning.rate * pitch_rate
        # a servo damps all motion, so it follows a moving target DAMPING / STIFFNESS = 28 ms late
        ahead = self.feet + tuning.lead / CONTROL_TICK * (self.feet - self._aimed)
        ahead[:, 2] = self.feet[:, 2] - self._height_trim
        self._aimed = self.feet.copy()
        self.robot.aim(leg_angles(ahead @ _leaning(roll, pitch) - HIPS))

    # --- the posture ------------------------------------------------------------------------------

    def _nominal(self, foot: int) -> tuple[float, float, float]:
        """Where a foot stands below a trunk at rest."""
        height, width = float(self.command[3]), float(self.command[10])
        return _ENDS[foot] * HIP_X, _SIDES[foot] * width / 2, FOOT - height

    def _offsets(self) -> list[float]:
        """By how much each foot's clock is ahead of the common one."""
        first, second, third = self.command[GAIT_SLICE].tolist()
        return [(first + second + third) % 1.0, second % 1.0, third % 1.0, first % 1.0]


_ENDS, _SIDES = END.tolist(), SIDE.tolist()


def _leaning(roll: float, pitch: float) -> np.ndarray:
    """Rows of level axes times this (3, 3) are in those of a trunk that leans: first back about y,
    then back about x."""
    cos_p, sin_p, cos_r, sin_r = math.cos(pitch), math.sin(pitch), math.cos(roll), math.sin(roll)
    return np.array(
        [
            [cos_p, sin_r * sin_p, cos_r * sin_p],
            [0.0, cos_r, -sin_r],
            [-sin_p, sin_r * cos_p, cos_r * cos_p],
        ]
    )


__all__ = ["CONTROL_TICK", "TICK_STEPS", "Gait", "GaitError", "Tuning"]
