#!/usr/bin/env bash
# Run the container on every case, under grand-challenge's limits and stricter ones, and compare with the expected
# output. Exits with 1 if any case fails or differs.
#
#   ./test.sh
#
# DOCKER, IMAGE, ENGINE, BASE_IMAGE  as in build.sh, but ENGINE is cpu where there is no GPU
# METHOD                             as in build.sh; of another than l2snet, expected_output_<method> is expected
# CASES                              folder of <case>/{input,expected_output}    [test/cases]
# SKIP_BUILD=1                       use the image as it is
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
docker=${DOCKER:-docker}
image=${IMAGE:-l2snet}
cases=${CASES:-$here/test/cases}
expected=expected_output
if [ "${METHOD:-l2snet}" != l2snet ]; then
  expected=expected_output_$METHOD
fi

# Any user that the image does not know and that has no home; nothing is writable but /output.
user=$((20000 + RANDOM))
limits=(--network none --cap-drop ALL --security-opt no-new-privileges --read-only --user "$user:$user"
  --memory 30g --memory-swap 30g --shm-size 64m --pids-limit 128)
gpu=no
if nvidia-smi --list-gpus >/dev/null 2>&1; then
  gpu=yes
fi
if [ -z "${ENGINE:-}" ]; then
  ENGINE=gpu
  if [ "$gpu" = no ]; then
    ENGINE=cpu
    echo "No GPU was found: the cpu image is tested (ENGINE=gpu tests the other one on the CPU)."
  fi
fi
export ENGINE
device=()
if [ "$gpu" = yes ] && [ "$ENGINE" = gpu ]; then
  device=(--gpus all)
fi

work=$(mktemp -d)
clean() {
  # What the container wrote belongs to its user: where that is another one, only a container can remove it.
  rm -rf "$work" 2>/dev/null ||
    "$docker" run --rm --network none --user root --volume "$work:/work" --entrypoint find "$image" \
      /work -mindepth 1 -delete && rm -rf "$work"
}
trap clean EXIT

[ "${SKIP_BUILD:-0}" = 1 ] || "$here/build.sh"

# run_case FOLDER OUTPUT: run the container on a case, then compare inside the image (the host needs no Python).
run_case() {
  if [ ! -d "$1/$expected" ]; then
    echo "$1 has no $expected; make it as docs/submission.md says"
    return 1
  fi
  # Any user may write there: the container's is not the caller's. Nobody else reaches it through $work.
  mkdir "$2"
  chmod 777 "$2"
  "$docker" run --rm "${limits[@]}" ${device[@]+"${device[@]}"} \
    --volume "$1/input:/input:ro" --volume "$2:/output" "$image" --precision exact || return 1
  "$docker" run --rm "${limits[@]}" --volume "$1/$expected:/expected:ro" --volume "$2:/actual:ro" \
    --entrypoint python "$image" -m l2snet compare /expected /actual
}

count=0
failed=()
for folder in "$cases"/*/; do
  [ -d "$folder/input" ] || continue
  folder=$(cd "$folder" && pwd)
  name=$(basename "$folder")
  count=$((count + 1))
  began=$SECONDS
  if run_case "$folder" "$work/$name"; then
    echo "PASS $name ($((SECONDS - began)) s)"
  else
    echo "FAIL $name ($((SECONDS - began)) s)"
    failed+=("$name")
  fi
done

if [ "$count" = 0 ]; then
  echo "error: no case was found in $cases; expected folders <case>/input and <case>/$expected" >&2
  exit 1
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "error: ${#failed[@]} of $count cases failed: ${failed[*]}" >&2
  exit 1
fi
echo "all $count cases passed"
