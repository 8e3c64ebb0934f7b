"""A person at the terminal decides when the expert acts.

H and W: height and width of a camera's image, h and w: of what is drawn of it.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Any, Literal

import numpy as np
from pydantic import Field
from rich.color import Color
from rich.control import Control
from rich.style import Style
from rich.text import Text

from vla.common.terminal.consoles import output_console
from vla.config import UserError, register
from vla.data.storage.resizing import resized_image
from vla.sim_eval.gates.base import Gate, GateConfig, Proposal
from vla.types import Spec

try:
    import termios
    import tty
except ImportError:  # Windows has no such terminals
    termios = None  # type: ignore[assignment]

BESIDE = 4
"""Lines of the terminal that are kept for text."""


@register("gates", "keyboard")
class KeyboardConfig(GateConfig):
    """A person who watches the episode in the terminal hands it to the expert, and takes it back,
    by a key. For envs in this process: one episode at a time."""

    type: Literal["keyboard"] = "keyboard"
    key: str = Field(default=" ", min_length=1, max_length=1)
    """Changes who acts."""
    camera: str | None = None
    """Whose images are drawn, in colours of the terminal; null: the first of the robot's."""
    speed: float = Field(default=1.0, gt=0, le=1000)
    """Of the episode, in units of the robot's own: 0.5 shows it at half the speed."""

    @property
    def needs_person(self) -> bool:
        return True

    def build(self, spec: Spec) -> KeyboardGate:
        if self.camera is not None and self.camera not in spec.cameras:
            has = ", ".join(spec.cameras) or "none"
            raise UserError(
                f"gate.camera: no camera {self.camera!r}; the robot has: {has}; set it to null"
            )
        return KeyboardGate(self, spec)


class KeyboardGate(Gate):
    """See `KeyboardConfig`. The terminal is its own until `close`.

    Raises UserError if there is no terminal.
    """

    def __init__(self, config: KeyboardConfig, spec: Spec) -> None:
        self.config = config
        self.camera = config.camera or next(iter(spec.cameras), None)
        self.by_expert = False
        self._half_A = (np.asarray(spec.action_high) - np.asarray(spec.action_low)) / 2
        self._keys = TerminalKeys()
        self._console = output_console(stderr=True)
        # on a screen of its own: what was printed before comes back at the end
        self._console.set_alt_screen(True)
        self._seconds = 1.0 / (spec.control_hz * config.speed)
        self._due = time.monotonic()
        self._steps = 0

    def opens(self, proposal: Proposal) -> bool:
        self._wait()
        # pressed twice since the last step: it stays as it is
        if self._keys.read().count(self.config.key) % 2:
            self.by_expert = not self.by_expert
        self._steps += 1
        self._draw(proposal)
        return self.by_expert

    def _wait(self) -> None:
        """Until the step is due: a person is slower than a simulator."""
        now = time.monotonic()
        if now < self._due:
            time.sleep(self._due - now)
        self._due = max(now, self._due) + self._seconds

    def _draw(self, proposal: Proposal) -> None:
        console = self._console
        console.control(Control.home())
        image = proposal.observation["images"].get(self.camera)
        if image is not None:
            console.print(picture(image, console.width, console.height - BESIDE))
        apart = float((np.abs(proposal.action - proposal.expert) / self._half_A).mean())
        who = "the expert acts" if self.by_expert else "the policy acts"
        named = "space" if self.config.key == " " else self.config.key
        line = f"step {self._steps}: {who}, {apart:.2f} half ranges apart; {named}: change"
        # behind it blanks: an earlier line may have been longer
        console.print(Text(line.ljust(console.width - 1)))

    def close(self) -> None:
        self._console.set_alt_screen(False)
        self._keys.close()


class TerminalKeys:
    """Keys as they are pressed, without Enter, until `close`.

    Raises UserError if the standard input is no terminal, or of a system without them.
    """

    def __init__(self) -> None:
        if termios is None or not sys.stdin.isatty():
            raise UserError(
                "gate: keyboard needs a terminal to be operated at, and this process has none: "
                "start it in one, or use gate={type: expert_error}"
            )
        self._file = sys.stdin.fileno()
        self._before: list[Any] = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)  # Ctrl-C still interrupts

    def read(self) -> str:
        """What was pressed since the last call; does not wait."""
        pressed = b""
        while select.select([self._file], [], [], 0)[0]:
            read = os.read(self._file, 1024)
            if not read:  # the terminal is gone
                break
            pressed += read
        return pressed.decode(errors="replace")

    def close(self) -> None:
        """Gives the terminal back."""
        termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)


def picture(image: np.ndarray, columns: int, lines: int) -> Text:
    """uint8 (H, W, 3) -> text in colours of at most so many columns and lines, two rows of pixels
    to a line."""
    height, width = image.shape[:2]
    # a character is about twice as high as it is wide
    scale = min(1.0, max(columns - 1, 1) / width, 2 * max(lines, 1) / height)
    h, w = max(2, 2 * round(scale * height / 2)), max(1, round(scale * width))
    small_hw3 = resized_image(image, (h, w))
    rows = []
    for upper_w3, lower_w3 in zip(small_hw3[::2], small_hw3[1::2], strict=True):
        row = Text()
        for upper, lower in zip(upper_w3.tolist(), lower_w3.tolist(), strict=True):
            style = Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))
            row.append("▀", style)  # its upper half is text, its lower half ground
        rows.append(row)
    return Text("\n").join(rows)


__all__ = ["KeyboardConfig", "KeyboardGate", "TerminalKeys", "picture"]
