#!/bin/sh
# Installs vla_client alone into a fresh environment of the given Python, and runs its tests there.
#     sh scripts/test_client.sh /path/to/python3.10
set -e
python=$1
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=.venv-client-$version
test -x "$venv/bin/python" || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet --disable-pip-version-check"
# a copy: setuptools writes beside the sources that it builds
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cp -r vla_client "$source/"
$pip "$source/vla_client[images,ros]" "pytest>=8" hypothesis
# openpi-client needs typing_extensions and does not say so; where it cannot be installed its test is left out
$pip openpi-client==0.1.2 typing_extensions || echo "openpi-client cannot be installed on Python $version"
rm -r "$source/vla_client" # the installed one is tested
mkdir "$source/tests"
cp -r tests/vla_client tests/helpers "$source/tests/"
cp -r examples "$source/"
python=$PWD/$venv/bin/python
cd "$source"
PYTHONPATH=tests/helpers "$python" -m pytest -q --noconftest -c /dev/null --rootdir "$source" -p no:cacheprovider \
  --import-mode importlib -m "not slow" -W "ignore::pytest.PytestUnknownMarkWarning" tests/vla_client
