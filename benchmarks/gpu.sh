#!/usr/bin/env bash
# benchmarks/gpu.py on a machine that has a GPU and nothing else: no network, no Python of ours.
#   benchmarks/gpu.sh pack FOLDER [MODEL …]   here: everything that it takes, in two archives (about 55 MB)
#   benchmarks/gpu.sh run FOLDER              there: unpack and run
# `make test-accel` fetches what is packed. Needed there: x86-64, glibc 2.35, a Vulkan driver; a loader is carried along.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${2:?"gpu.sh pack|run FOLDER"}
python=${PYTHON:-$root/.venv/bin/python}

pack() {
  local base version site scratch
  base=$("$python" -c 'import sys; print(sys.base_prefix)')
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  site=$("$python" -c 'import numpy, pathlib; print(pathlib.Path(numpy.__file__).parents[1])')
  scratch=$(mktemp -d)
  mkdir -p "$folder" "$scratch/python/bin" "$scratch/python/lib" "$scratch/site" "$scratch/webgpu" "$scratch/models"
  cp -L "$base/bin/$version" "$scratch/python/bin/python"
  # A shared libpython, where this Python has one; its debug symbols are twice its size.
  cp "$base"/lib/lib"$version".so.1.0 "$scratch/python/lib/" 2>/dev/null && strip "$scratch/python/lib"/*.so.1.0
  tar -C "$base/lib" --exclude=site-packages --exclude=test --exclude=tests --exclude=idlelib --exclude=tkinter \
    --exclude=ensurepip --exclude=__pycache__ --exclude='config-*' --exclude=lib2to3 -cf - "$version" |
    tar -C "$scratch/python/lib" -xf -
  tar -C "$site" --exclude=__pycache__ --exclude=tests --exclude=tools --exclude=vendors --exclude=aot \
    --exclude='*converter*' --exclude='*calibration*' --exclude='*genai*' -cf - \
    numpy numpy.libs ai_edge_litert $(cd "$site" && echo ai_edge_litert-*.dist-info) flatbuffers ml_dtypes google tqdm \
    backports typing_extensions.py | tar -C "$scratch/site" -xf -
  tar -C "$root/build/accel/ncnn" --exclude=__pycache__ -cf - . | tar -C "$scratch/site" -xf -
  tar -C "$root/build/accel/webgpu" --exclude=__pycache__ --exclude=transformers --exclude=quantization \
    --exclude=tools --exclude='libonnxruntime.so*' -cf - onnxruntime | tar -C "$scratch/webgpu" -xf -
  cp "$root/build/accel/swiftshader/libvulkan.so.1" "$scratch/"
  cp -r "$root/host/pocketbench" "$root/agent/pocketbench_agent" "$root/benchmarks/gpu.py" "$scratch/site/"
  cp "$root"/examples/digits/digits-*.tflite "$root"/examples/digits/digits-*.onnx "${@:3}" "$scratch/models/"
  tar -C "$scratch" -czf "$folder/python.tar.gz" python
  tar -C "$scratch" -cJf "$folder/rest.tar.xz" site webgpu models libvulkan.so.1
  rm -rf "$scratch"
  ls -l "$folder"
}

run() {
  local there
  there=$(mktemp -d)
  tar -C "$there" -xzf "$folder/python.tar.gz"
  export PYTHONHOME=$there/python LD_LIBRARY_PATH=$there/python/lib:${LD_LIBRARY_PATH:-} PYTHONDONTWRITEBYTECODE=1
  local own=$there/python/bin/python
  "$own" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$folder/rest.tar.xz" "$there"
  # The machine's own loader goes first; ours is for one that has a driver alone.
  ldconfig -p 2>/dev/null | grep -q libvulkan.so.1 || { mkdir "$there/loader" && mv "$there/libvulkan.so.1" \
    "$there/loader/" && export LD_LIBRARY_PATH=$there/loader:$LD_LIBRARY_PATH; }
  ls /usr/share/vulkan/icd.d /etc/vulkan/icd.d 2>/dev/null || echo "no Vulkan driver is registered here"
  export PYTHONPATH=$there/site:$there/webgpu
  "$own" -c 'from pocketbench_agent import vulkan; print("adapters (name, is it software?):", vulkan.adapters())'
  local models=("$there"/models/*.tflite "$there"/models/*.onnx)
  for each in "$there"/models/*.param; do [ -e "$each" ] && models+=("$each"); done
  "$own" -m gpu "${models[@]}"
  rm -rf "$there"
}

"$1" "$@"
