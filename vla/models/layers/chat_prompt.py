"""Chat templates: what a processor writes before and after a text.

A template is a program of whoever made the processor, run in Jinja's sandbox, which bounds neither
time nor memory. So it is run in a process of its own, once for each number of pictures, and shows
what stands around a text. Later texts are put between that, and the template is never run on them.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vla.config import UserError

CPU_SECONDS, MEMORY = 1, 2**29
"""What rendering may take, beside what the libraries take by themselves."""
WALL_SECONDS = 120
"""For the process as a whole, of which most is importing, on a busy machine."""
MAX_LETTERS = 100_000
"""Of a rendered prompt."""
_MARK = "vla shows here where 90417 a text stands"
# keyword arguments as in `apply_chat_template` of transformers' processors
_SCRIPT = """
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template
asked = json.load(sys.stdin)
try:
    import resource
except ImportError:  # Windows: the time of the process is bounded there, and nothing else
    resource = None
if resource is not None:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    seconds = int(used) + 1 + asked["seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + asked["memory"],) * 2)
found, _ = render_jinja_template(
    conversations=asked["conversations"],
    chat_template=asked["template"],
    add_generation_prompt=True,
    **asked["special"],
)
if max(map(len, found)) > asked["letters"]:
    raise ValueError("it writes more than %d letters" % asked["letters"])
json.dump(found, sys.stdout)
"""


class ChatTemplateError(UserError):
    """A chat template cannot be rendered, takes too much, or does more than put a text in place."""


def _as_it_is(text: str) -> str:
    return text


_TRIMMED: tuple[Callable[[str], str], ...] = (_as_it_is, str.strip, str.lstrip, str.rstrip)


@dataclass(frozen=True)
class ChatFrame:
    """What stands around a text.

    Attributes:
        before, after: what the template writes there.
        trimmed: what it does to the text itself.
    """

    before: str
    after: str
    trimmed: Callable[[str], str] = _as_it_is

    def around(self, text: str) -> str:
        return self.before + self.trimmed(text) + self.after


def chat_frame(template: str, special: Mapping[str, Any], images: int) -> ChatFrame:
    """The frame of one message of a user: some pictures, and then a text.

    Args:
        special: names of special tokens -> their texts, which templates use.

    Raises ChatTemplateError.
    """
    return _cached_frame(template, json.dumps(dict(special), default=str), images)


@functools.lru_cache(maxsize=64)
def _cached_frame(template: str, special: str, images: int) -> ChatFrame:
    padded = f" \n{_MARK}\n "
    plain, with_blanks = _rendered(template, json.loads(special), images, [_MARK, padded])
    before, mark, after = plain.partition(_MARK)
    if not mark or _MARK in after:
        raise ChatTemplateError(
            "its chat template does not write the text of a message exactly once; set policy.chat: "
            "false"
        )
    for trimmed in _TRIMMED:
        frame = ChatFrame(before, after, trimmed)
        if frame.around(padded) == with_blanks:
            return frame
    raise ChatTemplateError(
        "its chat template changes the text of a message; set policy.chat: false"
    )


def _rendered(
    template: str, special: dict[str, Any], images: int, texts: list[str]
) -> tuple[str, ...]:
    """The prompts of these texts, by the template in a process of its own."""
    conversations = []
    for text in texts:
        content = [*[{"type": "image"}] * images, {"type": "text", "text": text}]
        conversations.append([{"role": "user", "content": content}])
    asked = {
        "template": template,
        "special": special,
        "conversations": conversations,
        "seconds": CPU_SECONDS,
        "memory": MEMORY,
        "letters": MAX_LETTERS,
    }
    try:
        made = subprocess.run(
            # -P: files of the folder that it is started in must not stand in for libraries
            [sys.executable, "-P", "-c", _SCRIPT],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChatTemplateError(
            f"its chat template was not rendered within {WALL_SECONDS} seconds"
        ) from error
    if made.returncode:
        # the last line of a traceback says what it was; a process that was ended says nothing
        lines = made.stderr.strip().splitlines()
        cause = lines[-1][:300] if lines and made.returncode > 0 else "it takes too long"
        raise ChatTemplateError(f"its chat template cannot be rendered: {cause}")
    return tuple(json.loads(made.stdout))


__all__ = ["ChatFrame", "ChatTemplateError", "chat_frame"]
