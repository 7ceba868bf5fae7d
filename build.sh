#!/usr/bin/env bash
# Build the container image, linux/amd64.
#
#   ./build.sh
#
# DOCKER      engine (docker, podman, ...)                        [docker]
# IMAGE       tag                                                 [l2snet]
# ENGINE      gpu: for hosts with and without a GPU; cpu: smaller [gpu]
# METHOD      l2snet, or step-by-step                             [l2snet]
# BASE_IMAGE  Debian or Ubuntu image with Python 3.11 and pip     [the Dockerfile's]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

arguments=(--platform linux/amd64 --build-arg "ENGINE=${ENGINE:-gpu}" --build-arg "METHOD=${METHOD:-l2snet}"
  --tag "${IMAGE:-l2snet}")
if [ -n "${BASE_IMAGE:-}" ]; then
  arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
fi
"${DOCKER:-docker}" build "${arguments[@]}" "$here"
