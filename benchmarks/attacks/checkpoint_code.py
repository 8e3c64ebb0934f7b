"""Checkpoints that ask for code of their own, for kernels, or for templates without end."""

from __future__ import annotations

import functools
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks import _checkpoints
from attacks._case import Case, mark
from attacks._checkpoints import answer, clean_answer, edit, fresh

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

COUNT = 120
LOADERS = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor")
TEMPLATES = (
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'a' * 99999999999 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{{ '%999999999d' | format(1) }}",
    "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARK/x') }}",
    "{% include '/etc/passwd' %}",
    "{{ messages[0]['content'] }}",
    "{{ raise_exception('no') }}",
    "{% if",
)
PROMPTS = (
    "{instruction:>4000000000}",
    "{instruction!r:>99}",
    "{instruction.__class__}",
    "{instruction[0]}",
    "{0}{instruction}",
    "{instruction:{instruction}}",
    "x",
)


@functools.cache
def clean_vlm() -> Path:
    """A whole vision-language policy as it was saved, with its base in it."""
    import torch
    import vlm_toys

    from vla.models.policies.vlm import VLMConfig

    root = Path(tempfile.mkdtemp(prefix="attack-vlm-"))
    torch.manual_seed(0)
    base = str(vlm_toys.smolvlm(root / "base"))
    tokenizer = {"type": "bins", "num_bins": 16}
    config = VLMConfig.model_validate({"base": base, "tokenizer": tokenizer, "save": "full"})
    config.build(vlm_toys.SPEC).eval().save_pretrained(root / "policy")
    return root / "policy"


def warm() -> None:
    _checkpoints.warm()
    _load(clean_vlm())


def case(rng: random.Random, folder: Path) -> Case:
    make: Callable[[random.Random, Path], Case]
    make = rng.choice([_encoder, _backbone, _base, _base, _template, _template, _prompt])
    return make(rng, folder)


def _code(rng: random.Random, place: Path, folder: Path) -> dict[str, Any]:
    """Writes a module that leaves a mark, and gives what a config says to have it imported."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "evil.py").write_text(f"open({str(mark(folder) / 'x')!r}, 'w')\nclass C: pass\n")
    target = rng.choice(["evil.C", "someone/repository--evil.C", ["evil.C", None], "evil.py.C"])
    return {"auto_map": dict.fromkeys(LOADERS, target)}


def _encoder(rng: random.Random, folder: Path) -> Case:
    policy = fresh("mlp", folder)
    place = folder / "encoder"
    model = rng.choice(["bert", "gpt2", "no such model", None])
    values = _code(rng, place, folder) | ({} if model is None else {"model_type": model})
    (place / rng.choice(["config.json", "tokenizer_config.json"])).write_text(json.dumps(values))
    edit(policy / "config.json", lambda v: v["config"].update(language=str(place)))
    what = f"an encoder of type {model} with code of its own"
    return Case(what, lambda: answer(policy), clean_answer("mlp"))


def _backbone(rng: random.Random, folder: Path) -> Case:
    policy = fresh("decision_transformer", folder)
    place = folder / "backbone"
    options: dict[str, Any] = _code(rng, place, folder)
    kind = rng.choice(["pretrained", "options", "kernel", "huge", "hub"])
    backbone: dict[str, Any] = {"pretrained": str(place)}
    (place / "config.json").write_text(json.dumps(options | {"model_type": "gpt2"}))
    if kind == "options":
        backbone = {"architecture": "gpt2", "options": options}
    elif kind == "kernel":
        key = rng.choice(["attn_implementation", "_attn_implementation", "experts_implementation"])
        backbone = {"architecture": "gpt2", "options": {key: "someone/kernel"}}
    elif kind == "huge":
        sizes = {"n_embd": 16 * 2**10, "n_layer": 10**5}
        backbone = {"architecture": "gpt2", "options": sizes}
    elif kind == "hub":
        backbone = {"pretrained": "someone/repository"}
    edit(policy / "config.json", lambda v: v["config"].update(backbone=backbone))
    return Case(f"a backbone: {kind}", lambda: answer(policy), clean_answer("decision_transformer"))


def _base(rng: random.Random, folder: Path) -> Case:
    policy = Path(shutil.copytree(clean_vlm(), folder / "policy"))
    files = sorted(p for p in policy.rglob("*config.json") if p.parent != policy)
    file = rng.choice(files)
    code = _code(rng, file.parent, folder)
    edit(file, lambda v: _within(rng, v).update(code))
    return Case(f"{file.relative_to(policy)} with code of its own", lambda: _load(policy))


def _within(rng: random.Random, values: dict[str, Any]) -> dict[str, Any]:
    """The config, or one within it."""
    inner = [value for value in values.values() if isinstance(value, dict)]
    return rng.choice([values, *inner])


def _template(rng: random.Random, folder: Path) -> Case:
    policy = Path(shutil.copytree(clean_vlm(), folder / "policy"))
    template = rng.choice(TEMPLATES).replace("MARK", str(mark(folder)))
    (policy / "processor" / "chat_template.jinja").write_text(template)
    (policy / "checksums.json").unlink()
    return Case(f"a chat template {template[:60]!r}", lambda: _load(policy))


def _prompt(rng: random.Random, folder: Path) -> Case:
    policy = Path(shutil.copytree(clean_vlm(), folder / "policy"))
    prompt = rng.choice(PROMPTS)
    edit(policy / "config.json", lambda v: v["config"].update(prompt=prompt))
    return Case(f"a prompt {prompt!r}", lambda: _load(policy))


def _load(folder: Path) -> list[Any]:
    from vla.models import load_policy

    policy = load_policy(folder)
    observation = policy.spec.fake_observation(1)
    return [float(x) for x in policy.act(observation)[0].flatten()]
