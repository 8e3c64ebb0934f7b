#!/bin/sh
# Checks that MuJoCo can render without a screen; installs the library if this user may, else names the command.
# usage: install_rendering.sh PYTHON
set -u
python=$1
packages="libegl1 libgl1 libgles2 libosmesa6"
works() { "$python" -c 'from vla.sim_eval.rendering import gl_renderer; print(gl_renderer())' >/dev/null 2>&1; }

works && exit 0
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ]; then
        echo "No rendering library found: installing $packages"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null
        works && exit 0
    else
        echo "Rendering needs EGL or OSMesa. Run:  sudo apt-get install -y $packages"
        exit 1
    fi
fi
echo "Rendering needs EGL or OSMesa. Install Mesa's EGL library with your system's package manager, for example:"
echo "  dnf install mesa-libEGL mesa-libGL    |    pacman -S mesa    |    conda install -c conda-forge mesalib"
"$python" -c 'from vla.sim_eval.rendering import gl_renderer; print(gl_renderer())'
