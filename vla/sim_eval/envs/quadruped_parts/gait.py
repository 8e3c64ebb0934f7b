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


@dataclass(frozen=True)
class Tuning:
    """Gains of the controller.

    Attributes:
        duty: share of a foot's cycle in which it stands.
        raibert: seconds; way of a foothold per error of velocity.
        level, rate: how strongly legs answer a tilt (1) and its rate (s).
        trim: per second; how fast an error of velocity is added to what is commanded.
        trim_limit: the most that is added, m/s and rad/s.
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
    trim_limit: float = 0.3
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
        self.phases = self._offsets(self.command)
        """Where each foot is in its cycle (4,)."""
        self.standing = True
        """Whether all feet stand still."""
        self._clock = 0.0
        self._trim = np.zeros(3)
        self._velocity = np.zeros(3)
        self._height_trim = 0.0
        self.feet = self._nominal(self.command)
        """Where the feet are to be (4, 3), from the trunk's middle, in level axes."""
        self._lifted = self.feet.copy()
        self._stood = np.ones(4, dtype=bool)
        self._aimed = self.feet.copy()

    # --- one tick ---------------------------------------------------------------------------------

    def control(self, command: Any) -> None:
        """Moves the servos' targets on by one tick towards a command (11,), clipped to the box.

        Raises CommandError for NaN or a wrong shape.
        """
        asked = np.clip(finite_command(command), LOW, HIGH)
        self._approach(asked)
        body = self.robot.sense()
        # a filter of 60 ms: the trunk sways with every step
        self._velocity += 0.15 * (body.velocity - self._velocity)
        nominal = self._nominal(self.command)
        self._decide(asked, nominal)
        if not self.standing:
            self._step(nominal)
        self._keep_height(nominal, body)
        self._hold(body)

    def _approach(self, asked: np.ndarray) -> None:
        """Moves the command that is followed towards the one asked for."""
        if self.tuning.safe:
            if not np.array_equal(asked, self._asked):
                # remembered: the same command comes for many ticks
                self._asked, self._goal = asked, safe_command(asked)
            goal = self._goal
            # a safe command that is followed already stays as it is
            if np.array_equal(goal, self.command):
                return
            goal = self._held_back(goal)
        else:
            goal = asked
        largest = self._largest_change
        way = goal - self.command
        # exactly the goal at last, not a rounding error beside it
        arrives = np.abs(way) <= largest
        moved = np.where(arrives, goal, self.command + np.clip(way, -largest, largest))
        if self.tuning.safe and not keeps_speed(moved):
            # first slower, then lower or into another gait
            moved[3:] = self.command[3:]
        self.command = moved

    def _held_back(self, goal: np.ndarray) -> np.ndarray:
        """What of a safe command (11,) can be approached now."""
        changes = not np.array_equal(goal[GAIT_SLICE], self.command[GAIT_SLICE])
        if changes and not allows_change(self.command):
            return np.concatenate([np.zeros(3), self.command[3:]])
        # no faster than gait and posture of this moment can go
        present = np.concatenate([goal[:3], self.command[3:]])
        return np.concatenate([safe_command(present)[:3], goal[3:]])

    def _decide(self, asked: np.ndarray, nominal: np.ndarray) -> None:
        """Whether feet stand still or step.

        Feet that stand still are never dragged over the ground, so a robot that stands does not
        drift; it steps again if it is pushed, or if its feet belong elsewhere.
        """
        going = np.abs(asked[:3]).max() > 0.02 or np.abs(self.command[:3]).max() > 0.02
        astray = np.abs(self.feet[:, :2] - nominal[:, :2]).max()
        pushed = np.abs(self._velocity[:2]).max()
        if self.standing:
            self.standing = not (going or astray > 0.06 or pushed > 0.30)
            return
        at_rest = not going and astray < 0.03 and pushed < 0.12
        if at_rest and (self.phases < self.tuning.duty).all():
            self.standing = True
            self._trim[:] = 0.0

    def _step(self, nominal: np.ndarray) -> None:
        """Moves clocks and feet on."""
        tuning, command = self.tuning, self.command
        error = command[:3] - self._velocity
        limit = tuning.trim_limit
        self._trim = np.clip(self._trim + tuning.trim * CONTROL_TICK * error, -limit, limit)
        velocity = command[:3] + self._trim
        self._advance_clocks()
        stands = self.phases < tuning.duty
        lifts = self._stood & ~stands
        self._lifted[lifts] = self.feet[lifts]
        self._stood = stands
        # a standing foot rests on the ground, which goes backwards under the trunk
        ground = velocity[:2] + _turning(velocity[2], self.feet)
        self.feet[stands, :2] -= CONTROL_TICK * ground[stands]
        self.feet[stands, 2] = nominal[stands, 2]
        if not stands.all():
            swinging = self._swing(nominal, velocity)
            self.feet[~stands] = swinging[~stands]

    def _advance_clocks(self) -> None:
        """Each foot keeps the common clock's time at its gait's distance.

        A foot that is out of step, since the gait has changed, ends its swing, then stands until
        its next swing begins in the new gait: a foot never jumps, and at a change more feet stand,
        not fewer.
        """
        duty, passed = self.tuning.duty, self.command[4] * CONTROL_TICK
        self._clock = (self._clock + passed) % 1.0
        wanted = (self._clock + self._offsets(self.command)) % 1.0
        own = (self.phases + passed) % 1.0
        swinging = (self.phases >= duty) & (own >= duty)
        # what a standing foot does follows from the ground alone, so its clock may jump
        begins = wanted < duty + 1.5 * passed
        standing = np.where(begins, wanted, 0.5 * duty)
        self.phases = np.where(swinging, own, standing)

    def _swing(self, nominal: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Where each foot is if it swings (4, 3): along a cycloid to its foothold."""
        tuning, command = self.tuning, self.command
        share = np.clip((self.phases - tuning.duty) / (1 - tuning.duty), 0.0, 1.0)
        stance_seconds = tuning.duty / command[4]
        ahead = 0.5 * stance_seconds * (velocity[:2] + _turning(velocity[2], nominal))
        ahead += tuning.raibert * (self._velocity[:2] - command[:2])
        foothold = nominal[:, :2] + np.clip(ahead, -tuning.reach, tuning.reach)
        # a cycloid starts and ends at rest, so feet neither kick off nor stamp
        along = share - np.sin(2 * np.pi * share) / (2 * np.pi)
        xy = self._lifted[:, :2] + along[:, None] * (foothold - self._lifted[:, :2])
        # not higher than a folded leg has room for
        high = min(command[8], 0.45 * command[3])
        z = nominal[:, 2] + high * np.sin(np.pi * share) ** 2
        return np.column_stack([xy, z])

    def _keep_height(self, nominal: np.ndarray, body: BodyState) -> None:
        error = self.command[3] - body.height
        change = self.tuning.height_trim * CONTROL_TICK * error
        self._height_trim = float(np.clip(self._height_trim + change, -0.04, 0.04))
        if self.standing:
            self.feet[:, 2] = nominal[:, 2]

    def _hold(self, body: BodyState) -> None:
        """Turns the feet into the axes of a trunk that leans against its tilt, and aims there."""
        tuning, wanted = self.tuning, self.command[9]
        roll = -tuning.level * body.roll - tuning.rate * body.tilt_rates[0]
        pitch = wanted - tuning.level * (body.pitch - wanted) - tuning.rate * body.tilt_rates[1]
        # a servo damps all motion, so it follows a moving target DAMPING / STIFFNESS = 28 ms late
        ahead = self.feet + tuning.lead / CONTROL_TICK * (self.feet - self._aimed)
        self._aimed = self.feet.copy()
        x, y, z = ahead[:, 0], ahead[:, 1], self.feet[:, 2]
        z = z - self._height_trim
        # the transposed rotation: first back about y, then back about x
        x, z = np.cos(pitch) * x - np.sin(pitch) * z, np.sin(pitch) * x + np.cos(pitch) * z
        y, z = np.cos(roll) * y + np.sin(roll) * z, np.cos(roll) * z - np.sin(roll) * y
        angles = leg_angles(np.stack([x, y, z], axis=1) - HIPS)
        self.robot.aim(angles)

    # --- the posture ------------------------------------------------------------------------------

    def _nominal(self, command: np.ndarray) -> np.ndarray:
        """Where the feet stand below a trunk at rest (4, 3)."""
        down = np.full(4, FOOT - command[3])
        return np.stack([END * HIP_X, SIDE * command[10] / 2, down], axis=1)

    def _offsets(self, command: np.ndarray) -> np.ndarray:
        """By how much each foot's clock is ahead of the common one (4,)."""
        first, second, third = command[GAIT_SLICE]
        return np.array([first + second + third, second, third, first]) % 1.0


def _turning(rate: float, feet: np.ndarray) -> np.ndarray:
    """Velocities (4, 2) of points of the trunk above the feet that a turn at `rate` adds."""
    return rate * np.stack([-feet[:, 1], feet[:, 0]], axis=1)


__all__ = ["CONTROL_TICK", "TICK_STEPS", "Gait", "GaitError", "Tuning"]
