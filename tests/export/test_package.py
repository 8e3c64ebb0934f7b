"""The folder of an exported policy: what it holds, what damages it, and what acts without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_policies import TEXTS, mlp, rt1

from vla.common.errors import UserError
from vla.control.actor_traits import traits_of
from vla.control.inference_mode import computes_on_cpu
from vla.export import ArrayObservation, ExportError, PackageError, export_onnx, load
from vla.models import CheckpointError, load_policy
from vla.recipes.evaluate import load_actor
from vla.sim_eval.identity import policy_identity
from vla.types import Spec, SpecError
from vla.types.errors import ActionError


@pytest.fixture(scope="session")
def written(spec: Spec, tmp_path_factory) -> Path:
    """A folder that nobody changes."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    export_onnx(mlp(spec), folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A folder to be changed."""
    return Path(shutil.copytree(written, tmp_path / "out"))


def edit(folder: Path, **changes: Any) -> None:
    """Changes export.json, and lets the checksums agree with it."""
    path = folder / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "checksums.json").unlink(missing_ok=True)


def test_it_says_what_it_is(written: Path, spec: Spec):
    exported = load(written)
    description = exported.description
    assert exported.spec == dict_spec(spec)
    assert exported.instructions == TEXTS
    assert (description.policy, description.precision) == ("mlp", "float32")
    assert str(description.inputs["language"]) == "float32 (B, 384)"
    assert set(description.versions) == {"vla", "torch", "onnx", "onnxscript", "onnxruntime"}
    assert "largest_action_difference_of_range" in description.agreement
    assert "actions differ by at most" in (written / "README.md").read_text()
    # the exporter remarks on every node where its code lies
    assert str(Path(torch.__file__).parent).encode() not in (written / "graph.onnx").read_bytes()


def dict_spec(spec: Spec) -> Spec:
    """What a policy without cameras keeps of a spec."""
    return Spec.from_dict({**spec.to_dict(), "cameras": {}})


def test_simulation_knows_it(written: Path):
    actor = load_actor(str(written), threads=1)
    assert computes_on_cpu(actor)
    assert traits_of(actor).source == str(written)
    graph = hashlib.sha256((written / "graph.onnx").read_bytes()).hexdigest()
    # resuming with another graph at the same place is found out
    assert policy_identity(actor, "a name").endswith(graph)
    with pytest.raises(CheckpointError, match=r"is an exported policy, which `vla eval` plays"):
        load_policy(written)


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
from vla.export import ArrayObservation, load

actor = load({folder!r}, threads=1)
seen = ArrayObservation({{}}, np.array({state!r}), {texts!r})
actions, memory = actor.act(seen)
actions, memory = actor.act(seen, memory.select([1, 0]).select([1, 0]))
print(actions.tolist())
try:
    actor.act(ArrayObservation({{}}, np.zeros((1, 2)), ["sing"]))
except Exception as error:
    print(type(error).__name__, error)
"""
BLOCKED = ["torch", "pydantic", "transformers", "jaxtyping", "yaml", "typer", "onnx", "onnxscript"]


def test_it_acts_without_torch(written: Path):
    state = [[0.5, -1.0], [2.0, 3.0]]
    code = WITHOUT_TORCH.format(
        blocked=BLOCKED, folder=str(written), state=state, texts=list(TEXTS)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    actions, refusal = done.stdout.splitlines()
    expected, _ = load(written).act(ArrayObservation({}, np.array(state), TEXTS))
    np.testing.assert_allclose(json.loads(actions), expected, atol=1e-6)
    assert refusal.startswith("UserError instruction 'sing': ")
    assert "vla export onnx POLICY OUT --instructions FILE" in refusal


def test_further_instructions_are_known(spec: Spec, tmp_path: Path):
    policy = mlp(spec, language="blank")
    export_onnx(policy, tmp_path / "out", instructions=["sing"])
    exported = load(tmp_path / "out")
    assert "sing" in exported.instructions
    # a blank encoder has the same vector for every text
    exported.act(ArrayObservation({}, np.zeros((1, 2)), ["never seen"]))


@pytest.mark.parametrize("name", ["graph.onnx", "instructions.safetensors", "spec.json"])
def test_damage_is_found(name: str, folder: Path):
    data = bytearray((folder / name).read_bytes())
    data[-20] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(PackageError, match=str(folder)):
        load(folder)


@pytest.mark.parametrize("name", ["graph.onnx", "export.json", "spec.json"])
def test_missing_files_are_named(name: str, folder: Path):
    (folder / name).unlink()
    with pytest.raises(PackageError, match=f"it lacks {name}"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "format version is 2, this vla reads 1"),
        ({"format": "x"}, "expected format 'vla.exported_policy'"),
        ({"history": True}, "history is True, expected int"),
        ({"precision": "int4"}, "precision is 'int4', expected one of float32, int8"),
        ({"chunk": 0}, "chunk is 0, expected 1 or more"),
        ({"chunk": 3}, r"outputs are actions float32 \(B, 2, 3\)"),
        ({"graph_sha256": "0"}, "SHA-256 is .* export.json says 0"),
        (
            {"inputs": {"state": {"dtype": "float32", "shape": [2]}}},
            r"instructions.safetensors: holds .* expected finite float32 \(2, 0\)",
        ),
        (
            {"inputs": {"state": {"dtype": "float32", "shape": [3]}}},
            r"inputs.state is float32 \(B, 3",
        ),
        ({"inputs": {"state": {"dtype": "object", "shape": [2]}}}, "expected a dtype of"),
        ({"inputs": {"memory.x": {"dtype": "bool", "shape": [2**30]}}}, "expected"),
    ],
)
def test_a_description_that_cannot_be_is_refused(changes, message: str, folder: Path):
    edit(folder, **changes)
    with pytest.raises(PackageError, match=message):
        load(folder)


def test_a_huge_memory_is_refused_before_it_is_made(folder: Path):
    values = json.loads((folder / "export.json").read_text())
    port = {"dtype": "bool", "shape": [2**30]}
    edit(
        folder,
        inputs=values["inputs"] | {"memory.x": port},
        outputs=values["outputs"] | {"next.x": port},
    )
    with pytest.raises(PackageError, match="expected at most 268435456 numbers a robot"):
        load(folder)


def test_vectors_that_are_no_numbers_are_refused(folder: Path):
    from vla.export.package_files import save_instructions

    (folder / "checksums.json").unlink()
    save_instructions(folder / "instructions.safetensors", {"a": np.full(384, np.nan)}, 384)
    with pytest.raises(PackageError, match=r"expected finite float32 \(1, 384\)"):
        load(folder)
    save_instructions(folder / "instructions.safetensors", {"a": np.zeros(3)}, 384)
    with pytest.raises(PackageError, match=r"holds float32 \(1, 3\), expected"):
        load(folder)


def test_what_does_not_fit_is_named(written: Path):
    exported = load(written)
    zeros = np.zeros((2, 2))
    for observation, message in (
        (ArrayObservation({}, zeros, TEXTS[0]), "expected a list of B texts"),
        (ArrayObservation({}, zeros[:1], TEXTS), r"state: expected numbers \(2, 2\) \(x, y\)"),
        (ArrayObservation({}, zeros + [0, 1e39], TEXTS), "state 'y': is not finite"),
    ):
        with pytest.raises(SpecError, match=message):
            exported.act(observation)
    _, memory = exported.act(ArrayObservation({}, zeros, TEXTS))
    with pytest.raises(ValueError, match="memory of 2 robots with an observation of 1"):
        exported.act(ArrayObservation({}, zeros[:1], TEXTS[:1]), memory)
    with pytest.raises(UserError, match=r"temperature is 1, .* set temperature=0"):
        exported.act(ArrayObservation({}, zeros, TEXTS), temperature=1.0)


def test_images_of_another_kind_are_named(spec: Spec):
    right = {
        "front": np.zeros((1, 32, 48, 3), np.uint8),
        "wrist": np.zeros((1, 32, 48, 3), np.uint8),
    }
    state = np.zeros((1, 2))
    ArrayObservation(right, state, ["a"]).check(spec)
    for image in (right["front"] / 255, right["front"][0], right["front"][:, :16]):
        with pytest.raises(SpecError, match="camera 'wrist': expected uint8"):
            ArrayObservation(right | {"wrist": image}, state, ["a"]).check(spec)
    with pytest.raises(SpecError, match="lacks camera 'wrist'"):
        ArrayObservation({"front": right["front"]}, state, ["a"]).check(spec)


def test_actions_that_are_no_numbers_are_not_given(spec: Spec, tmp_path: Path):
    # the most likely token of NaN is the first one: the actions look right
    policy = mlp(spec, head={"type": "categorical"})
    policy.state_std.fill_(0.5)
    export_onnx(policy, tmp_path / "out")
    # float32 holds it, but not the double of it
    state = np.array([[0.0, 0.0], [3e38, 3e38]])
    with pytest.raises(ActionError, match="NaN or infinity came out for robot 1 of 2"):
        load(tmp_path / "out").act(ArrayObservation({}, state, TEXTS))


def test_int8_is_smaller_and_close(spec: Spec, tmp_path: Path):
    policy = mlp(spec, hidden=128, head={"type": "regression"})
    description = export_onnx(policy, tmp_path / "out", precision="int8")
    weights = 4 * sum(tensor.numel() for tensor in policy.parameters())
    assert (tmp_path / "out" / "graph.onnx").stat().st_size < 0.5 * weights
    difference = description.agreement["largest_action_difference_of_range"]
    assert 1e-6 < difference < 0.1


def test_a_graph_reads_no_other_file(folder: Path, monkeypatch):
    """A model may name files of the machine as its weights: none is opened."""
    import onnx

    monkeypatch.chdir(folder)
    Path("secret").write_bytes(bytes(4096))
    model = onnx.load("graph.onnx")
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    data = model.SerializeToString()
    (folder / "graph.onnx").write_bytes(data)
    edit(folder, graph_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(PackageError, match="ONNX Runtime cannot load it"):
        load(folder)


def test_a_graph_for_a_fixed_number_of_robots_is_refused(folder: Path):
    import onnx

    model = onnx.load(folder / "graph.onnx")
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    data = model.SerializeToString()
    (folder / "graph.onnx").write_bytes(data)
    edit(folder, graph_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(
        PackageError, match=r"inputs.state is float32 \(B, 2, 2\), export.json says"
    ):
        load(folder)


def test_what_cannot_be_exported_says_what_to_do(spec: Spec, tmp_path: Path):
    from vla.models.policies.decision_transformer import DecisionTransformerConfig

    transformer = DecisionTransformerConfig().build(spec).eval()
    with pytest.raises(
        ExportError, match=r"decision_transformer is no function .* vla serve POLICY"
    ):
        export_onnx(transformer, tmp_path / "out")
    fast = mlp(spec, tokenizer={"type": "fast", "vocab_size": 64}, head={"type": "autoregressive"})
    with pytest.raises(
        ExportError, match=r"policy.tokenizer: .* FastTokenizer .* vla serve POLICY"
    ):
        export_onnx(fast, tmp_path / "out")
    with pytest.raises(ExportError, match=r"policy.cpu\(\).eval\(\)"):
        export_onnx(mlp(spec).train(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_other_folder_is_replaced(spec: Spec, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="is there already, and no exported policy"):
        export_onnx(mlp(spec), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_graph_that_is_not_the_policy_is_refused(spec: Spec, tmp_path: Path, monkeypatch):
    policy = mlp(spec)
    exact = type(policy).pure_step

    def wrong(self, images, state, language, memory):
        return exact(self, images, state + 1, language, memory)

    monkeypatch.setattr(type(policy), "pure_step", wrong)
    with pytest.raises(ExportError, match="does not do what the policy does"):
        export_onnx(policy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named(spec: Spec, tmp_path: Path, monkeypatch, written: Path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        UserError, match=r"onnxscript is not installed: pip install 'vla\[export\]'"
    ):
        export_onnx(mlp(spec), tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime is not installed: pip install"):
        load(written)


def test_an_rt1_needs_no_camera_that_it_does_not_look_through(spec: Spec):
    from vla.export import StepGraph

    graph = StepGraph(rt1(spec))
    assert "image.front" in graph.inputs
    assert "image.wrist" not in graph.inputs
    assert graph.outputs == ("actions", "is_finite", "logits", "next.mask", "next.image")
